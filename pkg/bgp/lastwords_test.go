package bgp

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// When an interface fails, its session's last words reach the router by another
// one, over routers in between, although the session itself never leaves its
// link.
func TestLastWordsPassRouters(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		between, far := ns.New("between"), ns.New("far")
		ns.VethTo("en1", far, "link")
		ns.VethTo("en5", between, "near")
		between.VethTo("out", far, "fabric")
		ns.IP("addr add 10.68.1.1/24 dev en1")
		ns.IP("addr add 10.68.5.1/24 dev en5")
		ns.IP("route add default via 10.68.5.2")
		between.IP("addr add 10.68.5.2/24 dev near")
		between.IP("addr add 10.68.7.1/24 dev out")
		between.IP("route add 10.68.1.0/24 via 10.68.7.2")
		between.Sysctl("net/ipv4/conf/all/forwarding", "1")
		far.IP("addr add 10.68.1.2/24 dev link")
		far.IP("addr add 10.68.7.2/24 dev fabric")
		far.IP("route add 10.68.5.0/24 via 10.68.7.1")
		far.Sysctl("net/ipv4/conf/all/rp_filter", "0")
		far.Sysctl("net/ipv4/conf/fabric/rp_filter", "0")

		host, router := netip.MustParseAddr("10.68.1.1"), netip.MustParseAddr("10.68.1.2")
		s := startSpeaker(t, SpeakerOptions{})
		cfg := conf("en1", 65010, host, peer(router, 65001))
		cfg.Paths = []Path{path4(1)}
		apply(t, s, cfg)
		var raw *rawPeer
		far.Do(func() error {
			raw = dialRaw(t, router, host, 65001, rawOptions{})
			return nil
		})
		awaitEstablished(t, s, router)

		ns.IP("link set en1 down")
		cfg.Peers, cfg.DownReason = nil, "interface en1: administratively down"
		if err := s.Apply(context.Background(), cfg); err != nil {
			t.Fatal(err)
		}
		const want = "notification 6/2 interface en1: administratively down"
		raw.await(3*time.Second, func(seen []string) bool { return slices.Contains(seen, want) })
	})
}
