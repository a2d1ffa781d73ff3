"""The native core: the same network as the reference in C++17, behind a C ABI. Imports neither torch nor numpy."""
