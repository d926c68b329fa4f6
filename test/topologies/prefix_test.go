package topologies

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// A whole prefix is one path to the routers, and every address of it is the
// host's: clients reach services on any of them.
func TestPrefixVIP(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host, client := l.Node("host"), l.Node("client")
	net4, net6 := netip.MustParsePrefix("10.80.7.0/24"), netip.MustParsePrefix("fd68:80::/64")
	wire := host.Capture()
	s := startWith(t, l, hostConfig{vips: append(sampleVIPs(), vipLine("net4", net4), vipLine("net6", net6))})
	for _, p := range []netip.Prefix{net4, net6} {
		lab.Eventually(t, 15*time.Second, "the client has two ways to "+p.String(), func() error {
			hops, err := client.Route(p)
			if err != nil || len(lab.Live(hops)) != 2 {
				return fmt.Errorf("%v: %w", hops, err)
			}
			return nil
		})
	}
	for _, m := range wire.Messages() {
		for _, p := range m.Announced {
			if m.Out && p != net4 && p != net6 && p != vip4 && p != vip6 {
				t.Errorf("%v is announced, want the prefixes as a whole", p)
			}
		}
	}
	// IPv4 programs bind any address of the prefix.
	for _, a := range []string{"10.80.7.1", "10.80.7.200"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(a), 9)
		c := lab.StartSession(client, netip.AddrPortFrom(client4, 0), host, at)
		c.WaitAlive(5 * time.Second)
		c.Stop()
	}
	// For IPv6 the kernel takes packets, and answers from the address: nobody
	// listens there.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := client.Dial(ctx, "tcp", netip.AddrPortFrom(client6, 0), netip.MustParseAddrPort("[fd68:80::abcd]:9"))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a connection to [fd68:80::abcd]:9: %v, want that it is refused", err)
	}
	if out, err := s.Command("trace", "to", "10.80.7.200"); err != nil {
		t.Errorf("trace: %v\n%s", err, out)
	}
	if got := traceOf(t, s, "trace", "to", "fd68:80::abcd"); got.VIP != "net6" || got.Steps[len(got.Steps)-1].Unreachable != "" {
		t.Errorf("trace: %+v", got)
	}
}
