# The shell stays, for ExaBGP takes a closed standard output for its helper's end.
cat >>/run/exabgp/received.json
