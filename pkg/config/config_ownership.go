package config

import (
	"crypto/tls"
	"time"
)

// Ownership says how the owner of exclusive VIPs is found.
type Ownership struct {
	// Host is the name of this host among the others; empty for the kernel's.
	Host string
	// Lease is how long an owner that is not heard of any more stays it, 3 s to 5
	// min, in whole seconds.
	Lease time.Duration
	// Handover is how long a host that has handed a VIP over goes on announcing it, 200 ms
	// to 5 min.
	Handover time.Duration
	Etcd     Etcd
}

// Etcd says where etcd is.
type Etcd struct {
	// Endpoints are URLs with the scheme http or https, at least one.
	Endpoints []string
	// Username is empty for none.
	Username string
	Password Secret
	// TLS is nil unless an endpoint is https.
	TLS *tls.Config
	// Prefix is that of all keys; it begins and ends with a slash.
	Prefix string
}
