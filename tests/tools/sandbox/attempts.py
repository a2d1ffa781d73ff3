"""What programs in the sandbox try, and must not manage: each is Python that gets through or raises OSError.

`{...}` is filled in by whoever runs them. `call` makes a system call by its number on x86-64, past Python and libc.
"""

from __future__ import annotations

PRELUDE = """
import ctypes, errno, os, resource, signal, socket, struct, subprocess, sys

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

def call(number, *arguments):
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = _libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def write(path, text="x"):
    with open(path, "w") as file:
        file.write(text)

def open_descriptors():
    found = []
    for number in range(64):
        try:
            os.fstat(number)
        except OSError:
            continue
        found.append(number)
    return found

def beside(module):
    return os.path.dirname(module.__file__) + "/left_behind.py"
"""

FILES = {
    "the list of users": "open('/etc/passwd').read()",
    "a file of the server": "open({secret!r}).read()",
    "writing a file of the server": "write({secret!r})",
    "a file beside the server's": "write({secret!r} + '.new')",
    "the source of the server": "open({source!r}).read()",
    "a file of the server by way of its parent folders": "open(os.getcwd() + '/../' * 20 + {secret!r}).read()",
    "a file of the server by way of a link": "os.symlink({secret!r}, 'link'); open('link').read()",
    "a hard link to a file of the server": "os.link({secret!r}, 'hard')",
    "a file of the server by descriptor without rights": (
        "with open(os.open({secret!r}, os.O_PATH)) as file: file.read()"
    ),
    "cutting a file of the server": "os.truncate({secret!r}, 0)",
    "opening a file of the server to cut it": "os.open({secret!r}, os.O_RDONLY | os.O_TRUNC)",
    "renaming a file of the server": "os.rename({secret!r}, 'mine')",
    "removing a file of the server": "os.unlink({secret!r})",
    "the mode of a file of the server": "os.chmod({secret!r}, 0o777)",
    "the owner of a file of the server": "os.chown({secret!r}, os.getuid(), os.getgid())",
    "the time of a file of the server": "os.utime({secret!r}, (1, 1))",
    "an attribute of a file of the server": "os.setxattr({secret!r}, 'user.mine', b'1')",
    "the root folder, to write": "write('/left_behind')",
    "the user's home": "os.listdir('/root')",
    "the standard library, to write": "write(beside(os))",
    "the packages, to write": "write(sys.path[0] + '/left_behind.py')",
    "the system's libraries, to write": "write('/usr/lib/left_behind')",
    "the root of another process": "open('/proc/self/root/etc/passwd').read()",
    "the environment of the first process": "open('/proc/1/environ').read()",
    "the environment of the server": "open('/proc/{pid}/environ').read()",
    "the memory of the server": "open('/proc/{pid}/mem', 'rb')",
    "descriptors of the server": "os.listdir('/proc/{pid}/fd')",
    "its own descriptors": "os.listdir('/proc/self/fd')",
    "the root of the first process": "os.listdir('/proc/1/root')",
    "how the kernel dumps cores": "write('/proc/sys/kernel/core_pattern')",
    "settings of the kernel": "open('/proc/sys/kernel/hostname').read()",
    "devices of the kernel": "os.listdir('/sys/class')",
    "a disk": "open('/dev/vda', 'rb')",
    "shared memory": "write('/dev/shm/left_behind')",
    "a new device file": "os.mknod('device', 0o600 | 0o020000, os.makedev(1, 1))",
    "a pipe with a name": "os.mkfifo('pipe')",
    "a socket file": "os.mknod('socket', 0o600 | 0o140000)",
    "opening by handle": "call(304, -100, ctypes.create_string_buffer(64), 0)",
    "the handle of a path": (
        "call(303, -100, b'/', ctypes.create_string_buffer(256), ctypes.create_string_buffer(8), 0)"
    ),
    "a file that is larger than allowed": "open('large', 'wb').truncate(1 << 40)",
    "a file in memory": "os.memfd_create('hidden')",
    "a shell": "open('/bin/sh', 'rb')",
}

NETWORK = {
    "the server's own port": "socket.create_connection(('127.0.0.1', {port}), 1)",
    "the metadata of a cloud": "socket.create_connection(('169.254.169.254', 80), 1)",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))",
    "IPv6": "socket.socket(socket.AF_INET6)",
    "a name": "socket.getaddrinfo('example.com', 443)",
    "a socket of the host by path": "socket.socket(socket.AF_UNIX).connect('/run/systemd/journal/stdout')",
    "an abstract socket": "socket.socket(socket.AF_UNIX).bind(b'\\0mine')",
    "a pair of sockets": "socket.socketpair()",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "the host of a virtual machine": "socket.socket(40, socket.SOCK_STREAM)",
    "packets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "the kernel's ciphers": "socket.socket(38, socket.SOCK_SEQPACKET)",
    "a server": "socket.create_server(('127.0.0.1', 0))",
    "messages between processes": "call(240, b'/queue', os.O_CREAT | os.O_RDWR, 0o600, None)",
    "shared memory by key": "call(29, 0, 4096, 0o1600)",
    "semaphores by key": "call(64, 0, 1, 0o1600)",
    # Three streams, and two ways to the server.
    "inherited descriptors": "if len(open_descriptors()) <= 5: raise OSError('none')",
}

PROCESSES = {
    "fork": "os.fork()",
    "vfork": "call(58)",
    "clone": "call(56, signal.SIGCHLD, 0, 0, 0, 0)",
    "clone with a system of its own": "call(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)",
    "clone3": "call(435, ctypes.create_string_buffer(88), 88)",
    "exec of Python": "os.execv(sys.executable, ['python', '-c', 'print(1)'])",
    "exec of a shell": "os.execv('/bin/sh', ['sh'])",
    "exec of the loader": "os.execv('/lib64/ld-linux-x86-64.so.2', ['ld.so'])",
    "execveat": "call(322, -100, sys.executable.encode(), None, None, 0)",
    "a file that is made executable": (
        "write('program', '#!/bin/sh'); os.chmod('program', 0o755); os.execv('program', ['program'])"
    ),
    "subprocess": "subprocess.run([sys.executable, '-V'])",
    "multiprocessing": "import multiprocessing; multiprocessing.get_context('fork').Process(target=print).start()",
    "posix_spawn": "os.posix_spawn(sys.executable, ['python'], {{}})",
    "a signal to the first process": "os.kill(1, 0)",
    "a signal to the parent": "os.kill(os.getppid(), signal.SIGTERM)",
    "a signal to the server": "os.kill({pid}, signal.SIGTERM)",
    "a signal to everybody": "os.kill(-1, signal.SIGTERM)",
    "a signal to a thread of the server": "call(200, {pid}, 0)",
    "a signal with a value": "call(129, {pid}, 10, ctypes.create_string_buffer(128))",
    "a signal by way of a pipe": "import fcntl; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, {pid})",
    "another signal by way of a pipe": "import fcntl; fcntl.fcntl(os.pipe()[0], fcntl.F_SETSIG, 9)",
    "a signal by way of a terminal": "import fcntl; fcntl.ioctl(0, 0x8901, struct.pack('i', {pid}))",
    "typing into a terminal": "import fcntl; fcntl.ioctl(1, 0x5412, b'x')",
    "a timer that signals": "call(222, 0, ctypes.create_string_buffer(64), ctypes.create_string_buffer(8))",
    "watching the server": "call(101, 0x4206, {pid}, 0, 0)",
    "the memory of the server by system call": (
        "call(310, {pid}, ctypes.create_string_buffer(16), 1, ctypes.create_string_buffer(16), 1, 0)"
    ),
    "a descriptor of the server": "os.pidfd_open({pid})",
    "outliving the server": "if _libc.prctl(1, 0) < 0: raise OSError(ctypes.get_errno(), 'prctl')",
    "the limits of the server": "resource.prlimit({pid}, resource.RLIMIT_NOFILE, (0, 0))",
    "the priority of the server": "os.setpriority(os.PRIO_PROCESS, {pid}, 19)",
    "the processors of the server": "os.sched_setaffinity({pid}, {{0}})",
}

KERNEL = {
    "a new user space": "call(272, 0x10000000)",
    "a space of another process": "call(308, 0, 0)",
    "mount": "call(165, b'none', b'/tmp', b'tmpfs', 0, None)",
    "fsopen": "call(430, b'tmpfs', 0)",
    "open_tree": "call(428, -100, b'/', 1)",
    "pivot_root": "call(155, b'.', b'.')",
    "chroot": "os.chroot('.')",
    "bpf": "call(321, 0, ctypes.create_string_buffer(128), 128)",
    "io_uring": "call(425, 8, ctypes.create_string_buffer(120))",
    "userfaultfd": "call(323, 1)",
    "perf_event_open": "call(298, ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "keyrings": "call(250, 0, -3, 0)",
    "a key": "call(248, b'user', b'mine', b'x', 1, -3)",
    "a call newer than the lists": "call(462, 0, 0, 0)",
    "a second filter": "call(317, 1, 0, ctypes.create_string_buffer(16))",
    "a second filter by prctl": (
        "if _libc.prctl(22, 2, ctypes.create_string_buffer(16)) < 0: raise OSError(ctypes.get_errno(), 'prctl')"
    ),
    "fewer walls by Landlock": "call(444, None, 0, 1)",
    "becoming root": "os.setuid(0)",
    "becoming another user": "os.setresuid(1, 1, 1)",
    "another group": "os.setgroups([0])",
    "capabilities": "call(126, ctypes.create_string_buffer(8), ctypes.create_string_buffer(24))",
    "higher limits": "call(160, resource.RLIMIT_AS, struct.pack('QQ', 1 << 40, 1 << 40))",
    "higher limits by their other call": "call(302, 0, resource.RLIMIT_AS, struct.pack('QQ', 1 << 40, 1 << 40), None)",
    "the same limits": "call(302, 0, resource.RLIMIT_NOFILE, struct.pack('QQ', 64, 64), None)",
    "the name of the host": "socket.sethostname('mine')",
    "the clock": "call(227, 0, struct.pack('qq', 0, 0))",
    "having all disks written": "call(162)",
    "loading a module": "call(175, None, 0, b'')",
    "another personality": "call(135, 0x0040000)",
    "watching files": "call(294, 0)",
    "low ports of the machine": "call(173, 0, 1, 1)",
}

ATTEMPTS = {**FILES, **NETWORK, **PROCESSES, **KERNEL}

RAW = {
    "calls of x32": "call(0x40000000 | 39)",
    "calls of a 32-bit program": """
import mmap
code = bytes.fromhex("53 b8 14 00 00 00 cd 80 5b c3")  # push rbx; mov eax, 20; int 0x80; pop rbx; ret
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code)
ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
""",
}
"""These end the process."""


def cell(attempt: str, **names: object) -> str:
    """A program that says whether the attempt got through."""
    body = "\n".join(f"    {line}" for line in attempt.format(**names).splitlines())
    return f"try:\n{body}\nexcept OSError as error:\n    print('refused')\nelse:\n    print('got through')"
