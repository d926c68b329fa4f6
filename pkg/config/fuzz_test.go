package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// FuzzParse: whatever the file is, Parse gives a Config or at least one mistake,
// and a Config keeps the promises that others build on.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*", "testdata/good/*", "../../examples/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, strings.TrimPrefix(filepath.Ext(path), "."))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, format string) {
		cfg, err := Parse(data, format, "fuzz")
		if err != nil {
			all, ok := errors.AsType[*Errors](err)
			if !ok || len(all.List) == 0 || cfg != nil || strings.TrimSpace(all.Error()) == "" {
				t.Fatalf("Parse = %v, %#v", cfg, err)
			}
			return
		}
		promises(t, cfg)
	})
}

func promises(t *testing.T, cfg *Config) {
	t.Helper()
	if cfg == nil || cfg.BGP.ASN == 0 || len(cfg.Interfaces) == 0 || !goodTimers(cfg.BGP.Timers) {
		t.Fatalf("config %+v", cfg)
	}
	for _, one := range cfg.Interfaces {
		if one.Name == "" || len(one.Peers)+len(cfg.Peers) == 0 || !goodDamping(one.Damping) ||
			one.GatewayProbe.Interval <= 0 || one.GatewayProbe.Failures < 1 || !goodPathProbe(one.PathProbe) {
			t.Errorf("interface %+v", one)
		}
	}
	eachPeer(cfg, func(p Peer, path string) {
		remote := strings.HasPrefix(path, "peers")
		if !goodPeer(p) || remote != (p.TTL > 0) || remote && (p.Gateway || p.Unnumbered || p.TTLSecurity || p.BFD != nil && !p.BFD.Multihop) {
			t.Errorf("%s: %+v", path, p)
		}
		if internal := p.ASN == cfg.BGP.ASN; p.Announce.LocalPref != nil && !internal || p.Announce.Prepend > 0 && internal {
			t.Errorf("%s: AS %d gets %+v", path, p.ASN, p.Announce)
		}
	})
	for i, v := range cfg.VIPs {
		if v.Name == "" || !v.Prefix.IsValid() || v.Prefix != v.Prefix.Masked() || v.Prefix.Bits() == 0 || len(v.Interfaces) == 0 ||
			!goodDamping(v.Damping) || v.ChecksMode != "all" && v.ChecksMode != "any" || v.Degrade != nil && len(v.Checks) == 0 {
			t.Errorf("vip %+v", v)
		}
		for _, other := range cfg.VIPs[:i] {
			if other.Name == v.Name || other.Prefix.Overlaps(v.Prefix) {
				t.Errorf("vips %+v and %+v", other, v)
			}
		}
		for _, c := range v.Checks {
			if c.Name == "" || kinds(c) != 1 || c.Timeout <= 0 || c.Timeout > c.Interval || c.Rise < 1 || c.Fall < 1 ||
				c.FastInterval <= 0 || c.FastInterval > c.Interval || c.Source.IsValid() && c.Source.Is4() != target(c).Is4() {
				t.Errorf("check %+v", c)
			}
		}
	}
}

func goodPeer(p Peer) bool {
	found := map[bool]int{true: 1}
	return found[p.Address.IsValid()]+found[p.Gateway]+found[p.Unnumbered] == 1 && (p.ASN == 0) == p.External && p.Port > 0 &&
		p.MaxPrefixes > 0 && (p.IPv4 || p.IPv6) && p.Announce.Prepend <= 10 && goodTimers(p.Timers) && goodBFD(p.BFD)
}

func goodTimers(t Timers) bool {
	return t.HoldTime > 0 && t.Keepalive > 0 && t.Keepalive*3 <= t.HoldTime && t.ConnectRetry > 0
}

func goodDamping(d Damping) bool {
	return d.HalfLife > 0 && d.Reuse > 0 && d.Suppress > 1000 && d.Suppress > d.Reuse && d.MaxSuppress >= d.HalfLife && ceiling(d) > float64(d.Suppress)
}

func goodPathProbe(p *PathProbe) bool {
	return p == nil || p.Target.IsValid() && !p.Target.IsMulticast() && p.Failures >= 1 && p.Timeout > 0 && p.Timeout <= p.Interval
}

func goodBFD(b *BFD) bool {
	return b == nil || b.MinTx > 0 && b.MinRx > 0 && b.Multiplier > 0 && (b.MinTTL > 0) == b.Multihop && (b.Auth == nil || b.Auth.Key != "")
}

// kinds counts the kinds that a check has, and wants what each needs.
func kinds(c Check) int {
	count := 0
	for kind, complete := range map[string]bool{
		"http":   c.HTTP != nil && c.HTTP.URL != nil && len(c.HTTP.ExpectStatus) > 0,
		"tcp":    c.TCP != nil && c.TCP.Address.IsValid(),
		"exec":   c.Exec != nil && len(c.Exec.Command) > 0,
		"dns":    c.DNS != nil && c.DNS.Server.Port() > 0 && dns.IsFqdn(c.DNS.Query) && dns.StringToType[c.DNS.Type] > 0,
		"grpc":   c.GRPC != nil && c.GRPC.Address.IsValid(),
		"icmp":   c.ICMP != nil && c.ICMP.Address.IsValid(),
		"listen": c.Listen != nil && c.Listen.Port > 0 && c.Listen.Address.IsValid(),
	} {
		if complete {
			count++
			if c.Kind != kind {
				return -1
			}
		}
	}
	return count
}
