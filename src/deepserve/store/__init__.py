"""What must survive the process: tables, migrations, one writer."""
