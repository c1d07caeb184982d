module wade.dev/tests/cluster/app

go 1.24.0
