package doctor

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// nft loads rules.
func (l *lab) nft(rules string) {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), "rules.nft")
	rules = strings.NewReplacer("; }", ";\n}\n", "} }", "}\n}", "} chain", "}\nchain").Replace(rules) + "\n"
	if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.Exec("nft", "-f", path)
}

// ruleset is the firewall without its counters and handles.
func (l *lab) ruleset() string {
	l.t.Helper()
	return l.Exec("nft", "-s", "list", "ruleset")
}

// cures shows that --fix does nothing unless the condition is named, that the
// command cures, that the undo restores, and that --fix cures.
func (l *lab) cures(f *Finding) {
	l.t.Helper()
	before := l.ruleset()
	if r, err := Fix(l.t.Context(), l.in); err != nil || len(r.Fixed) > 0 || l.ruleset() != before {
		l.t.Errorf("--fix without a name changed the firewall: %+v, %v", r, err)
	}
	l.run(f)
	l.shell(f.Undo)
	if after := l.ruleset(); after != before {
		l.t.Errorf("the undo did not restore:\n%s\nbut left:\n%s", before, after)
	}
	l.fix(f.Condition)
}

// Cures are rules that nft takes whatever the interface is called.
func TestFirewallOddName(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.in.Interfaces = []Interface{{Name: "10g1"}, {Name: "mark"}}
		l.in.VIPs = l.in.VIPs[:1]
		l.in.VIPs[0].Interfaces, l.in.VIPs[0].Ports = []string{"10g1", "mark"}, []uint16{80}
		l.nft(`table ip nat { chain post { type nat hook postrouting priority srcnat;
			oifname { "10g1", "mark" } masquerade
		} }
		table inet filter { chain in { type filter hook input priority filter; policy drop;
			iifname "mark" tcp dport 80 accept
		} }`)
		l.fix("masquerade")
		l.fix("firewall-interface")
	})
}

// A masquerade rule eats the VIP.
func TestMasquerade(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.routeTo(vip4, "en1")
		l.nft(`table ip nat { chain post { type nat hook postrouting priority srcnat;
			oifname { "en1", "en5" } counter masquerade
		} }
		table ip6 nat { chain post { type nat hook postrouting priority srcnat;
			oifname "en5" ip6 saddr fd68:6::/64 snat to fd68:5::1
		} }`)
		l.finding("masquerade", Warning, "what leaves from fd68:6::1 by en5 gets another source (table ip6 nat, chain post, rule with handle 2)")
		f := l.finding("masquerade", Bad, "what leaves from 10.68.6.1 by en1, en5 gets another source (table ip nat, chain post, rule with handle 3)")
		l.becomes("the source is another one", func() bool {
			from := l.leavesAs(vip4, client4)
			if from == vip4 {
				t.Errorf("packet from %q", from)
			}
			return from != ""
		})
		l.shell(f.Command)
		l.leaves(vip4)
		l.shell(f.Undo)
		l.fix("masquerade")
		l.leaves(vip4)
		l.leaves("10.68.1.1")
	})
}

// Rules of iptables are read too.
func TestMasqueradeIPTables(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.routeTo(vip4, "en1")
		ns.Exec("iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-o", "en+", "!", "-d", "10.0.0.0/16", "-m", "comment", "--comment", "x", "-j", "MASQUERADE")
		ns.Exec("iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-s", "172.17.0.0/16", "!", "-o", "docker0", "-j", "MASQUERADE")
		f := l.finding("masquerade", Bad, "what leaves from 10.68.6.1 by en1, en5 gets another source (table ip nat, chain POSTROUTING")
		l.becomes("the source is another one", func() bool {
			from := l.leavesAs(vip4, client4)
			if from == vip4 {
				t.Errorf("packet from %q", from)
			}
			return from != ""
		})
		l.cures(&f)
		l.leaves(vip4)
	})
}

// Rules that do not concern the VIP are no finding.
func TestFirewallWithoutFindings(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.in.Interfaces[0].Peers[0].BFD = true
		l.in.VIPs[0].Ports = []uint16{443}
		l.nft(`table ip nat { chain post { type nat hook postrouting priority srcnat;
			ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
			ip saddr != 10.68.6.1 oifname "en*" masquerade
			oifname "en9" masquerade
		} }
		table inet filter {
			set routers { type ipv4_addr; flags interval; elements = { 10.68.1.0/24, 10.68.5.2 } }
			set routers6 { type ipv6_addr; flags interval; elements = { fd68::/16 } }
			chain input { type filter hook input priority filter; policy drop;
				ct state vmap { established : accept, related : accept, invalid : drop }
				iifname "lo" accept
				ip saddr @routers tcp dport { 179, 5000-6000 } accept
				ip6 saddr @routers6 tcp dport 179 accept
				iifname . udp dport { "en1" . 3784 } jump bfd
				tcp dport { 22, 443 } accept
				meta l4proto { icmp, ipv6-icmp } accept
				limit rate 5/second log prefix "dropped "
			}
			chain bfd { ip ttl 255 accept; accept; }
			chain prerouting { type filter hook prerouting priority raw;
				fib saddr . iif oif missing drop
			}
			chain output { type filter hook output priority filter; policy accept;
				ct state invalid drop
			}
		}`)
		r := l.examine("masquerade", "firewall-bgp", "firewall-bfd", "firewall-interface", "firewall-rpfilter")
		if len(r.All()) > 0 || len(r.NotSeen) > 0 {
			t.Errorf("%+v\n%+v", r.All(), r.NotSeen)
		}
	})
}

// dials tells whether a TCP connection from the network to an address of the
// host gets an answer, be it a refusal.
func (l *lab) dials(target string) (answered bool) {
	l.t.Helper()
	l.far.Do(func() error {
		d := net.Dialer{Timeout: 300 * time.Millisecond}
		c, err := d.DialContext(l.t.Context(), "tcp", target)
		if err == nil {
			err = c.Close()
		}
		answered = err == nil || strings.Contains(err.Error(), "refused")
		return nil
	})
	return answered
}

// A policy that drops keeps sessions away.
func TestFirewallBGP(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.nft(`table inet filter { chain input { type filter hook input priority filter; policy drop;
			meta l4proto { icmp, ipv6-icmp } accept
			ip6 saddr fd68::/16 accept
		} }`)
		f := l.finding("firewall-bgp", Bad, "table inet filter, chain input, by its policy drops BGP from 10.68.1.2 (TCP from port 179), BGP from 10.68.1.2 (TCP to port 179), BGP from 10.68.5.2")
		if l.dials("10.68.1.1:179") {
			t.Error("the router gets an answer")
		}
		l.cures(&f)
		l.becomes("the router gets an answer", func() bool { return l.dials("10.68.1.1:179") })
	})
}

// Where one end may connect, there is a session; but it takes longer.
func TestFirewallBGPOneWay(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		ns.Exec("iptables-nft", "-A", "INPUT", "-i", "en1", "-p", "tcp", "--dport", "179", "-j", "REJECT")
		f := l.finding("firewall-bgp", Warning, "table ip filter, chain INPUT, rule with handle 2 drops BGP from 10.68.1.2 (TCP to port 179)")
		if !strings.HasPrefix(f.Command, "iptables -t filter -I INPUT -i en1 -p tcp -s 10.68.1.2 -d 10.68.1.1 --dport 179 ") {
			t.Errorf("command: %s", f.Command)
		}
		l.cures(&f)
		l.nft(`table inet out { chain output { type filter hook output priority filter; tcp dport 179 drop; tcp sport 179 drop; } }`)
		f = l.finding("firewall-bgp", Bad, "table inet out, chain output, rule with handle 2 and table inet out, chain output, rule with handle 3 drops BGP to 10.68.1.2")
		l.cures(&f)
	})
}

// What is not understood is said and not guessed.
func TestFirewallNotUnderstood(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		ns.Exec("iptables-nft", "-A", "INPUT", "-p", "tcp", "-m", "multiport", "--dports", "22,179", "-j", "DROP")
		r := l.examine("firewall-bgp")
		if len(r.All()) > 0 || len(r.NotSeen) == 0 || !strings.Contains(r.NotSeen[0].Reason, "iptables match multiport) is not understood") {
			t.Errorf("%+v", r)
		}
	})
}

// Without BFD's port the path is not watched.
func TestFirewallBFD(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.in.Interfaces[0].Peers[0].BFD = true
		l.in.Peers = []Peer{{Address: netip.MustParseAddr(client4), Port: 179, BFD: true, Multihop: true}}
		l.nft(`table inet filter { chain input { type filter hook input priority filter; udp dport { 3784, 4784 } drop; } }`)
		f := l.finding("firewall-bfd", Bad, "rule with handle 3 drops BFD from 10.68.1.2 (UDP to port 3784), BFD from 10.68.9.9 (UDP to port 4784)")
		heard := func() bool {
			server, err := net.ListenPacket("udp", "10.68.1.1:3784")
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close() //nolint:errcheck // of a test
			l.far.Do(func() error {
				c, err := net.Dial("udp", "10.68.1.1:3784")
				if err != nil {
					return err
				}
				defer c.Close() //nolint:errcheck // of a test
				_, err = c.Write([]byte("x"))
				return err
			})
			return received(server, 200*time.Millisecond) != ""
		}
		if heard() {
			t.Error("BFD is heard")
		}
		l.cures(&f)
		l.becomes("BFD is heard", func() bool { return heard() })
	})
}

// Zones: new connections come in by one interface only.
func TestFirewallOneInterface(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.in.VIPs = l.in.VIPs[:1]
		l.nft(`table inet filter { chain input { type filter hook input priority filter; policy drop;
			ct state established,related accept
			ip saddr { 10.68.1.0/24, 10.68.5.0/24 } accept
			meta l4proto ipv6-icmp accept
			ip6 saddr fd68::/16 accept
			iifname vmap { "en1" : jump public, "en5" : jump other }
		} chain public { tcp dport 8080 accept; } chain other { tcp dport 22 accept; } }`)
		// Where the services are not known, what rules speak of may be meant so.
		l.finding("firewall-interface", Note, "drops connections to 10.68.6.1 port 8080 by en5, connections to 10.68.6.1 port 22 by en1")
		l.in.VIPs[0].Ports = []uint16{8080}
		f := l.finding("firewall-interface", Warning, "table inet filter, chain input, by its policy drops connections to 10.68.6.1 port 8080 by en5")
		by := func(device string) bool {
			l.routeTo(vip4, device)
			return l.dial8080()
		}
		l.becomes("en1 is good", func() bool { return by("en1") })
		if by("en5") {
			t.Error("en5 is as good as en1")
		}
		l.cures(&f)
		l.becomes("en5 is as good as en1", func() bool { return by("en5") })
	})
}

// dial8080 is like dials, from the client.
func (l *lab) dial8080() (answered bool) {
	l.t.Helper()
	l.far.Do(func() error {
		d := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP(client4)}}
		c, err := d.DialContext(l.t.Context(), "tcp", vip4+":8080")
		if err == nil {
			err = c.Close()
		}
		answered = err == nil || strings.Contains(err.Error(), "refused")
		return nil
	})
	return answered
}

// The filter of firewalld drops what comes by an interface without a way back.
func TestFirewallReversePath(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.nft(`table inet fw { chain pre { type filter hook prerouting priority raw + 10;
			meta nfproto ipv6 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
			fib saddr . mark . iif oif missing drop
		} }`)
		l.clean("firewall-rpfilter") // as long as the way back is by both
		ns.IP("-6 route replace default proto 68 table 6801 via fd68:1::2 dev en1")
		f := l.finding("firewall-rpfilter", Bad, "table inet fw, chain pre, rule with handle 4 drops what comes for fd68:6::1 by en5, by which no route leads back")
		if l.arrives(client6, vip6, "en5") {
			t.Error("the packet arrives")
		}
		l.cures(&f)
		l.becomes("the packet arrives", func() bool { return l.arrives(client6, vip6, "en5") })
	})
}

// Without root the firewall cannot be read, and that is what is said.
func TestFirewallUnseen(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		t.Setenv("PATH", t.TempDir())
		r := l.examine("masquerade", "firewall-bgp")
		if len(r.All()) > 0 || len(r.NotSeen) != 2 || r.NotSeen[0].Reason != "nft is not installed, so the firewall's rules cannot be read" {
			t.Errorf("%+v", r)
		}
		dir := t.TempDir()
		script := "#!/bin/sh\necho 'Operation not permitted (you must be root)' >&2\nexit 1\n"
		if err := os.WriteFile(filepath.Join(dir, "nft"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir)
		if r := l.examine("masquerade"); len(r.NotSeen) != 1 || !strings.Contains(r.NotSeen[0].Reason, "needs CAP_NET_ADMIN") {
			t.Errorf("%+v", r)
		}
	})
}
