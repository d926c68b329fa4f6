package bgp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// localLab is a host and a router that have link-local addresses only.
type localLab struct {
	netnstest.NS
	r            netnstest.NS
	host, router netip.Addr // with the zones of both ends
}

func newLocalLab(ns netnstest.NS) *localLab {
	l := &localLab{NS: ns, r: ns.New("r"), host: netip.MustParseAddr("fe80::1%en1"), router: netip.MustParseAddr("fe80::2%wan")}
	l.plug()
	return l
}

func (l *localLab) plug() {
	l.VethTo("en1", l.r, "wan")
	l.IP("addr add fe80::1/64 dev en1 nodad")
	l.r.IP("addr add fe80::2/64 dev wan nodad")
}

// conf is the host's speaker, as for an unnumbered peer.
func (l *localLab) conf(asn uint32) SpeakerConfig {
	p := peer(l.router.WithZone("en1"), asn)
	p.LocalAddress, p.Interface, p.HoldTime, p.Keepalive = l.host, "en1", 3*time.Second, time.Second
	return SpeakerConfig{
		Name: "en1", ASN: 65010, RouterID: netip.MustParseAddr("10.0.0.1"), ListenPort: testPort,
		ListenAddresses: []netip.Addr{l.host}, Peers: []Peer{p}, Paths: []Path{path4(1), path6(1)},
	}
}

// dial is the router's side of a session that it begins.
func (l *localLab) dial(t *testing.T, asn uint32, o rawOptions) *rawPeer {
	t.Helper()
	var raw *rawPeer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	netnstest.Until(t, patience, func() (err error) {
		// By index: names are remembered for a minute, and interfaces change.
		l.r.Do(func() error {
			var device *net.Interface
			if device, err = net.InterfaceByName("wan"); err == nil {
				zone := strconv.Itoa(device.Index)
				raw, err = tryRaw(ctx, t, l.router.WithZone(zone), l.host.WithZone(zone), asn, o)
			}
			return nil
		})
		return err
	})
	return raw
}

func nextHopCapability() []bgp.ParameterCapabilityInterface {
	return []bgp.ParameterCapabilityInterface{bgp.NewCapExtendedNexthop([]*bgp.CapExtendedNexthopTuple{
		bgp.NewCapExtendedNexthopTuple(bgp.RF_IPv4_UC, bgp.AFI_IP6),
	})}
}

// Sessions over link-local addresses carry both families with the host's own
// address as next hop, whoever dials, with an AS that is given or any external.
func TestLinkLocalSession(t *testing.T) {
	for _, dials := range []bool{true, false} {
		for name, change := range map[string]func(*SpeakerConfig){
			"number":   func(*SpeakerConfig) {},
			"external": func(c *SpeakerConfig) { c.Peers[0].ASN, c.Peers[0].External = 0, true },
			"internal": func(c *SpeakerConfig) { c.Peers[0].ASN = 65010 },
			"secured":  func(c *SpeakerConfig) { c.Peers[0].TTLSecurity = true },
			"passive":  func(c *SpeakerConfig) { c.Peers[0].Passive = true },
		} {
			if dials && name == "passive" {
				continue
			}
			t.Run(fmt.Sprintf("%s, we dial %t", name, dials), func(t *testing.T) {
				t.Parallel()
				netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
					t.Helper()
					l := newLocalLab(ns)
					m := startManager(t, Options{}, nil)
					cfg := l.conf(65001)
					change(&cfg)
					asn := max(cfg.Peers[0].ASN, 65001)
					if dials {
						cfg.ListenPort = 0
					}
					announce(m, cfg)
					o := rawOptions{caps: nextHopCapability(), control: setHops(255)}
					var raw *rawPeer
					if dials {
						l.r.Do(func() error { raw = acceptRaw(t, l.router, asn, o); return nil })
					} else {
						raw = l.dial(t, asn, o)
					}
					tail := " via fe80::1 [{AsPath: 65010}]"
					if asn == 65010 {
						tail = " via fe80::1 [{AsPath: } {LocalPref: 100}]"
					}
					got := raw.await(patience, func(all []string) bool { return len(all) == 2 })
					slices.Sort(got)
					if diff := cmp.Diff([]string{"[+10.100.0.1/32]" + tail, "[+2001:db8::1/128]" + tail}, got); diff != "" {
						t.Errorf("messages (-want +got):\n%s", diff)
					}
					eventually(t, patience, func() string { return fmt.Sprintf("%+v", m.State()) }, func() bool {
						st := speakerState(m, "en1")
						p := peerState(&st, cfg.Peers[0].Address)
						return p.State == Established && p.ExtendedNextHop && p.IPv4 && p.IPv6 && p.ASN == asn && st.Error == "" &&
							p.LocalAddress == l.host && p.RouterID == netip.MustParseAddr("10.9.9.9")
					})
				})
			})
		}
	}
}

// A session over link-local addresses comes back after whatever happened to the
// interface, whoever dials, told or not.
func TestLinkLocalSessionComesBack(t *testing.T) {
	for name, accident := range map[string]func(*localLab){
		"deleted and made again": func(l *localLab) { l.IP("link del en1"); l.plug() },
		"down and up": func(l *localLab) {
			l.IP("link set en1 down")
			l.IP("link set en1 up")
			l.IP("addr replace fe80::1/64 dev en1 nodad")
		},
	} {
		for _, dials := range []bool{true, false} {
			for _, told := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, we dial %t, told %t", name, dials, told), func(t *testing.T) {
					t.Parallel()
					netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
						t.Helper()
						l := newLocalLab(ns)
						m := startManager(t, Options{}, nil)
						cfg := l.conf(65001)
						if dials {
							cfg.ListenPort = 0
						}
						announce(m, cfg)
						meet := func() (raw *rawPeer) {
							if dials {
								l.r.Do(func() error {
									device, err := net.InterfaceByName("wan")
									if err == nil {
										raw = acceptRaw(t, l.router.WithZone(strconv.Itoa(device.Index)), 65001, rawOptions{hold: 3})
									}
									return err
								})
								return raw
							}
							return l.dial(t, 65001, rawOptions{hold: 3})
						}
						raw := meet()
						awaitUp(t, m, "en1", 1)
						down := cfg
						down.Peers, down.DownReason = nil, "interface en1: link down"
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
						meet()
						awaitUp(t, m, "en1", 1)
						t.Logf("back after %s, restarts %d", time.Since(start).Round(10*time.Millisecond), speakerState(m, "en1").Restarts)
					})
				})
			}
		}
	}
}

// Two interfaces whose routers and hosts have the same link-local addresses.
func TestSameLinkLocalAddressOnTwoInterfaces(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		m := startManager(t, Options{}, nil)
		var d Desired
		labs := map[string]netnstest.NS{}
		for i, name := range []string{"en1", "en5"} {
			r := ns.New("r" + name)
			labs[name] = r
			ns.VethTo(name, r, "wan")
			ns.IP("addr add fe80::1/64 dev %s nodad", name)
			r.IP("addr add fe80::2/64 dev wan nodad")
			l := localLab{host: netip.MustParseAddr("fe80::1%" + name), router: netip.MustParseAddr("fe80::2%wan")}
			cfg := l.conf(65001)
			cfg.Name, cfg.Peers[0].Address, cfg.Peers[0].Interface = name, l.router.WithZone(name), name
			cfg.Paths = cfg.Paths[i : i+1]
			d.Speakers = append(d.Speakers, cfg)
		}
		m.Announce(d)
		for name, want := range map[string]string{"en1": "[+10.100.0.1/32]", "en5": "[+2001:db8::1/128]"} {
			l := localLab{r: labs[name], host: netip.MustParseAddr("fe80::1%wan"), router: netip.MustParseAddr("fe80::2%wan")}
			raw := l.dial(t, 65001, rawOptions{caps: extendedHop()})
			raw.await(patience, hasPrefix(want))
			awaitUp(t, m, name, 1)
		}
	})
}

// What link-local addresses cannot do is said, and costs the peer alone.
func TestLinkLocalLimits(t *testing.T) {
	l := localLab{host: netip.MustParseAddr("fe80::1%en1"), router: netip.MustParseAddr("fe80::2%wan")}
	for want, change := range map[string]func(*SpeakerConfig){
		"":                        func(*SpeakerConfig) {},
		"TCP MD5 is not possible": func(c *SpeakerConfig) { c.Peers[0].Password = "sesame" },
		"of another zone":         func(c *SpeakerConfig) { c.Peers[0].LocalAddress = c.Peers[0].LocalAddress.WithZone("en2") },
		"has no zone, which": func(c *SpeakerConfig) {
			c.Peers[0].Address, c.Peers[0].LocalAddress = c.Peers[0].Address.WithZone(""), c.Peers[0].LocalAddress.WithZone("")
		},
		"multihop TTL is not possible": func(c *SpeakerConfig) { c.Peers[0].MultihopTTL = 3 },
		"listen address fe80::1 has no zone": func(c *SpeakerConfig) {
			c.ListenAddresses[0] = c.ListenAddresses[0].WithZone("")
		},
		"listen addresses are of two zones": func(c *SpeakerConfig) {
			c.ListenAddresses = append(c.ListenAddresses, netip.MustParseAddr("fe80::1%en2"))
		},
	} {
		cfg := l.conf(65001)
		change(&cfg)
		if _, err := clean(cfg); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q in it", err, want)
		}
	}
}
