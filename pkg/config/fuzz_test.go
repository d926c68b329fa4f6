package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
		if one.Name == "" || len(one.Peers) == 0 {
			t.Errorf("interface %+v", one)
		}
		for _, p := range one.Peers {
			if !p.Address.IsValid() || p.ASN == 0 || p.Port == 0 || p.MaxPrefixes == 0 || !goodTimers(p.Timers) {
				t.Errorf("peer %+v", p)
			}
		}
	}
	for i, v := range cfg.VIPs {
		if v.Name == "" || !v.Prefix.IsValid() || v.Prefix != v.Prefix.Masked() || v.Prefix.Bits() == 0 || len(v.Interfaces) == 0 {
			t.Errorf("vip %+v", v)
		}
		for _, other := range cfg.VIPs[:i] {
			if other.Name == v.Name || other.Prefix.Overlaps(v.Prefix) {
				t.Errorf("vips %+v and %+v", other, v)
			}
		}
		for _, c := range v.Checks {
			if c.Name == "" || c.Kind == "" || c.Timeout <= 0 || c.Timeout > c.Interval || c.Rise < 1 || c.Fall < 1 {
				t.Errorf("check %+v", c)
			}
		}
	}
}

func goodTimers(t Timers) bool {
	return t.HoldTime > 0 && t.Keepalive > 0 && t.Keepalive*3 <= t.HoldTime && t.ConnectRetry > 0
}
