package bgp

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestClean(t *testing.T) {
	local, other := netip.MustParseAddr("10.68.1.1"), netip.MustParseAddr("10.68.1.2")
	tests := []struct {
		name   string
		change func(*SpeakerConfig)
		want   string // empty: no error
	}{
		{"good", func(*SpeakerConfig) {}, ""},
		{"no name", func(c *SpeakerConfig) { c.Name = "" }, "speaker has no name"},
		{"asn", func(c *SpeakerConfig) { c.ASN = 0 }, "asn 0 is reserved"},
		{"router id", func(c *SpeakerConfig) { c.RouterID = netip.MustParseAddr("::1") }, "router id ::1 is not an IPv4 address"},
		{"router id zero", func(c *SpeakerConfig) { c.RouterID = netip.IPv4Unspecified() }, "router id 0.0.0.0"},
		{"port", func(c *SpeakerConfig) { c.ListenPort = 65536 }, "listen port 65536"},
		{"listen", func(c *SpeakerConfig) { c.ListenAddresses = []netip.Addr{{}} }, "listen address invalid IP"},
		{"restart time", func(c *SpeakerConfig) { c.GracefulRestart.RestartTime = 4096 * time.Second }, "restart time 1h8m16s"},
		{"peer", func(c *SpeakerConfig) { c.Peers[0].Address = netip.Addr{} }, "peer invalid IP: is not a unicast address"},
		{"peer mapped", func(c *SpeakerConfig) { c.Peers[0].Address = netip.MustParseAddr("::ffff:10.0.0.1") }, "is not a unicast address"},
		{"peer multicast", func(c *SpeakerConfig) { c.Peers[0].Address = netip.MustParseAddr("224.0.0.1") }, "is not a unicast address"},
		{"peer is local", func(c *SpeakerConfig) { c.Peers[0].Address = local }, "is the local address"},
		{"peer twice", func(c *SpeakerConfig) { c.Peers = append(c.Peers, c.Peers[0]) }, "peer 10.68.1.2: is there twice"},
		{"local address", func(c *SpeakerConfig) { c.Peers[0].LocalAddress = netip.Addr{} }, "local address invalid IP"},
		{"local family", func(c *SpeakerConfig) { c.Peers[0].LocalAddress = netip.MustParseAddr("fd00::1") }, "of the other family"},
		{"peer asn", func(c *SpeakerConfig) { c.Peers[0].ASN = 0 }, "asn 0 is reserved"},
		{"interface", func(c *SpeakerConfig) { c.Peers[0].Interface = "0123456789abcdef" }, "longer than 15"},
		{"password", func(c *SpeakerConfig) { c.Peers[0].Password = Secret(strings.Repeat("x", 81)) }, "password is longer than 80 octets"},
		{"hold time low", func(c *SpeakerConfig) { c.Peers[0].HoldTime = 2 * time.Second }, "hold time 2s"},
		{"hold time odd", func(c *SpeakerConfig) { c.Peers[0].HoldTime = 3500 * time.Millisecond }, "hold time 3.5s"},
		{"keepalive", func(c *SpeakerConfig) { c.Peers[0].Keepalive = 9 * time.Second }, "keepalive 9s"},
		{"retry", func(c *SpeakerConfig) { c.Peers[0].ConnectRetry = 0 }, "connect retry 0s"},
		{"prefix", func(c *SpeakerConfig) { c.Paths[0].Prefix = netip.Prefix{} }, "is not a prefix"},
		{"default route", func(c *SpeakerConfig) { c.Paths[0].Prefix = netip.MustParsePrefix("0.0.0.0/0") }, "a default route is never announced"},
		{"default route 6", func(c *SpeakerConfig) { c.Paths[0].Prefix = netip.MustParsePrefix("::/0") }, "a default route is never announced"},
		{"host bits", func(c *SpeakerConfig) { c.Paths[0].Prefix = netip.MustParsePrefix("10.1.1.1/24") }, "has host bits"},
		{"multicast", func(c *SpeakerConfig) { c.Paths[0].Prefix = netip.MustParsePrefix("224.0.0.0/4") }, "is not a unicast prefix"},
		{"path twice", func(c *SpeakerConfig) { c.Paths = append(c.Paths, c.Paths[0]) }, "is there twice"},
		{"next hop family", func(c *SpeakerConfig) {
			c.Paths[0] = Path{Prefix: netip.MustParsePrefix("2001:db8::1/128"), NextHop: local}
		}, "next hop 10.68.1.1 is not an IPv6 address"},
		{"next hop", func(c *SpeakerConfig) { c.Paths[0].NextHop = netip.IPv4Unspecified() }, "next hop 0.0.0.0 is not a unicast address"},
		{"prepend", func(c *SpeakerConfig) { c.Paths[0].Prepend = 11 }, "prepend 11 is not in 0 to 10"},
		{"communities", func(c *SpeakerConfig) { c.Paths[0].Communities = make([]uint32, 129) }, "more than 128 communities"},
		{"large", func(c *SpeakerConfig) { c.Paths[0].LargeCommunities = make([]LargeCommunity, 129) }, "more than 128 large communities"},
		{"long-lived", func(c *SpeakerConfig) { c.GracefulRestart.LongLived = 1 << 24 * time.Second }, "long-lived stale time"},
		{"long-lived alone", func(c *SpeakerConfig) {
			c.GracefulRestart = GracefulRestart{LongLived: time.Hour}
		}, "long-lived graceful restart needs graceful restart"},
		{"external with AS", func(c *SpeakerConfig) { c.Peers[0].External = true }, "asn 65001 and any external one exclude each other"},
		{"router id of peer", func(c *SpeakerConfig) { c.Peers[0].RouterID = netip.MustParseAddr("::1") }, "router id ::1 is not an IPv4 address"},
		{"multihop 1", func(c *SpeakerConfig) { c.Peers[0].MultihopTTL = 1 }, "multihop TTL 1"},
		{"multihop and security", func(c *SpeakerConfig) {
			c.Peers[0].MultihopTTL, c.Peers[0].TTLSecurity = 5, true
		}, "exclude each other"},
		{"attributes: prepend", func(c *SpeakerConfig) { c.Peers[0].Attributes = &Attributes{Prepend: 11} }, "prepend 11 is not in 0 to 10"},
		{"attributes: local pref", func(c *SpeakerConfig) { c.Peers[0].Attributes = &Attributes{LocalPref: new(uint32)} }, "local preference 0"},
		{"attributes: origin", func(c *SpeakerConfig) {
			origin := uint8(3)
			c.Peers[0].Attributes = &Attributes{Origin: &origin}
		}, "origin 3 is not in 0 to 2"},
		{"attributes: communities", func(c *SpeakerConfig) {
			c.Peers[0].Attributes = &Attributes{Communities: make([]uint32, 33)}
		}, "more than 32 communities"},
		{"attributes: extended", func(c *SpeakerConfig) {
			c.Peers[0].Attributes = &Attributes{ExtendedCommunities: []ExtendedCommunity{{3, 0x0b}}}
		}, "neither a route target nor a route origin"},
		{"attributes: reserved", func(c *SpeakerConfig) {
			c.Peers[0].Attributes = &Attributes{LargeCommunities: []LargeCommunity{{hiddenGlobal, hiddenPref, 1}}}
		}, "reserved AS"},
		{"origin", func(c *SpeakerConfig) { c.Paths[0].Origin = 3 }, "origin 3"},
		{"extended", func(c *SpeakerConfig) { c.Paths[0].ExtendedCommunities = make([]ExtendedCommunity, 65) }, "more than 64 extended"},
		{"reserved", func(c *SpeakerConfig) { c.Paths[0].LargeCommunities = []LargeCommunity{{hiddenGlobal, hiddenPref, 1}} }, "reserved AS"},
		{"id 0 beside others", func(c *SpeakerConfig) {
			c.Paths = append(c.Paths, c.Paths[0])
			c.Paths[1].ID = 4
		}, "has no ID, but others of the same prefix have"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := graceful(conf("en1", 65010, local, peer(other, 65001)))
			cfg.Paths = []Path{path4(1)}
			tt.change(&cfg)
			got, err := clean(cfg)
			if tt.want == "" {
				if err != nil || len(got.Peers) != 1 || len(got.Paths) != 1 {
					t.Errorf("clean: %+v, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q in it", err, tt.want)
			}
			if len(got.Peers) > 1 || len(got.Paths) > 1 {
				t.Errorf("what is wrong stayed: %+v", got)
			}
		})
	}
}
