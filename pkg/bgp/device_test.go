package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// deviceLab is a host with en1 and a router behind it.
type deviceLab struct {
	netnstest.NS
	r            netnstest.NS
	host, router netip.Addr
}

func newDeviceLab(ns netnstest.NS) *deviceLab {
	l := &deviceLab{NS: ns, r: ns.New("r"), host: netip.MustParseAddr("192.0.2.1"), router: netip.MustParseAddr("192.0.2.2")}
	l.plug()
	return l
}

// plug makes the link between the two.
func (l *deviceLab) plug() {
	l.VethTo("en1", l.r, "wan")
	l.IP("addr add %s/24 dev en1", l.host)
	l.r.IP("addr add %s/24 dev wan", l.router)
}

// dial is the router's side of a session that it begins itself.
func (l *deviceLab) dial(t *testing.T, asn uint32) *rawPeer {
	t.Helper()
	var raw *rawPeer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	netnstest.Until(t, patience, func() (err error) {
		l.r.Do(func() error {
			raw, err = tryRaw(ctx, t, l.router, l.host, asn, rawOptions{hold: 3})
			return nil
		})
		return err
	})
	return raw
}

// A router that only dials gets its session back, whatever happened to the
// interface, and whether or not the daemon took the peer away meanwhile.
func TestPassiveSessionComesBack(t *testing.T) {
	for name, accident := range map[string]func(*deviceLab){
		"deleted and made again": func(l *deviceLab) { l.IP("link del en1"); l.plug() },
		"renamed and back": func(l *deviceLab) {
			l.IP("link set en1 name other")
			l.IP("link set other name en1")
		},
		"another device of the name": func(l *deviceLab) {
			l.IP("link set en1 name old")
			l.IP("addr flush dev old")
			l.IP("link set old down")
			l.r.IP("link set wan name old")
			l.r.IP("addr flush dev old")
			l.plug()
		},
		"address removed and added": func(l *deviceLab) {
			l.IP("addr del %s/24 dev en1", l.host)
			l.IP("addr add %s/24 dev en1", l.host)
		},
		"down and up": func(l *deviceLab) { l.IP("link set en1 down"); l.IP("link set en1 up") },
	} {
		for _, asn := range []uint32{65010, 65001} {
			for _, told := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, AS %d, told %t", name, asn, told), func(t *testing.T) {
					t.Parallel()
					netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
						t.Helper()
						l := newDeviceLab(ns)
						p := peer(l.router, asn)
						p.Interface, p.HoldTime, p.Keepalive = "en1", 3*time.Second, time.Second
						cfg := conf("en1", 65010, l.host, p)
						m := startManager(t, Options{}, nil)
						announce(m, cfg)
						raw := l.dial(t, asn)
						awaitUp(t, m, "en1", 1)

						down := cfg
						down.Peers, down.DownReason = nil, "interface en1: does not exist"
						if told {
							m.Withdraw(Desired{Speakers: []SpeakerConfig{down}})
						}
						accident(l)
						_ = raw.conn.Close()
						if told {
							awaitUp(t, m, "en1", 0)
							announce(m, cfg)
						}
						start := time.Now()
						l.dial(t, asn)
						awaitUp(t, m, "en1", 1)
						t.Logf("back after %s, restarts %d", time.Since(start).Round(10*time.Millisecond), speakerState(m, "en1").Restarts)
					})
				})
			}
		}
	}
}
