package demo

import (
	"errors"
	"net/netip"
)

// The addresses of the picture in picture.txt.
const (
	vipAddress     = "10.68.6.1"
	clientAddress  = "10.68.9.9"
	clientGateway  = "10.68.9.1"
	unlistedRouter = "10.68.0.2"
	unlistedHost   = "10.68.0.1"
	servicePort    = 8080
	hostASN        = 65010
	routerASN      = 65000
)

// lab is the three machines: a host with two listed interfaces and one that is
// not, a router, and a client behind the router. The router is the namespace
// of the process itself, so its BGP speaker can run in this process.
type lab struct {
	host, router, client *namespace
}

// newLab builds the machines and the links between them.
func newLab() (*lab, error) {
	router, err := ownNamespace("router")
	if err != nil {
		return nil, err
	}
	host, err := newNamespace("host")
	if err != nil {
		return nil, err
	}
	client, err := newNamespace("client")
	if err != nil {
		return nil, err
	}
	l := &lab{host: host, router: router, client: client}
	return l, errors.Join(
		// What any router with several equal routes does: forward, choose by
		// the whole flow, leave out next hops whose link is down.
		router.sysctl(
			[2]string{"ipv4/ip_forward", "1"},
			[2]string{"ipv4/fib_multipath_hash_policy", "1"},
			[2]string{"ipv4/conf/all/ignore_routes_with_linkdown", "1"},
			[2]string{"ipv4/conf/all/rp_filter", "0"},
			[2]string{"ipv4/conf/default/rp_filter", "0"},
		),
		host.sysctl(
			[2]string{"ipv4/fib_multipath_hash_policy", "1"},
			[2]string{"ipv6/fib_multipath_hash_policy", "1"},
			// No link-local addresses, which would take seconds to come and go.
			[2]string{"ipv6/conf/default/addr_gen_mode", "1"},
		),
		router.connect("r0", unlistedRouter+"/24", host, "en0", unlistedHost+"/24"),
		router.connect("r1", "10.68.1.2/24", host, "en1", "10.68.1.1/24"),
		router.connect("r5", "10.68.5.2/24", host, "en5", "10.68.5.1/24"),
		router.connect("c0", clientGateway+"/24", client, "eth0", clientAddress+"/24"),
		host.defaultRoute(unlistedRouter),
		client.defaultRoute(clientGateway),
	)
}

// attachment is one of the two listed paths between the host and the router.
type attachment struct {
	name         string // the host's interface
	host, router netip.Addr
}

// attachments returns the listed paths in the order of the configuration.
func attachments() [2]attachment {
	return [2]attachment{
		{"en1", netip.MustParseAddr("10.68.1.1"), netip.MustParseAddr("10.68.1.2")},
		{"en5", netip.MustParseAddr("10.68.5.1"), netip.MustParseAddr("10.68.5.2")},
	}
}
