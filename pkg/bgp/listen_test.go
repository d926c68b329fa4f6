package bgp

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// Nobody connects through another interface to a session that no TTL keeps on
// its link. One that TTL 1 keeps there is not bound to the device, so that its
// Cease can leave by another way.
func TestListenerStaysOnItsDevice(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		host, router, local := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("198.51.100.1")
		r := ns.New("r")
		ns.VethTo("en1", r, "wan")
		ns.IP("addr add %s/24 dev en1", host)
		ns.IP("addr add %s/32 dev lo", local)
		r.IP("addr add %s/24 dev wan", router)
		for asn, bound := range map[uint32]time.Duration{65010: 300 * time.Millisecond, 65001: patience} {
			refused := asn == 65010
			s := startSpeaker(t, SpeakerOptions{})
			p := peer(router, asn)
			p.Interface = "en1"
			cfg := conf("en1", 65010, host, p)
			apply(t, s, cfg)
			apply(t, s, cfg)
			r.Exec("bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/17917")
			// What comes from the host itself arrives by lo.
			ctx, cancel := context.WithTimeout(t.Context(), bound)
			conn, err := connect(ctx, local, host, nil)
			cancel()
			if err == nil {
				_ = conn.Close()
			}
			if (err != nil) != refused {
				t.Errorf("AS %d: connection through another interface: %v, want refused %t", asn, err, refused)
			}
			if err := s.Close(t.Context(), StopDrain, "next"); err != nil {
				t.Error(err)
			}
		}
	})
}
