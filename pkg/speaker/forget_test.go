package speaker

import (
	"net/netip"
	"net/url"
	"reflect"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"

	"github.com/google/go-cmp/cmp"
)

// What is the same before and after a reload keeps all of its history.
func TestReloadForgetsNothing(t *testing.T) {
	t.Parallel()
	in := edit(reflector)
	en1, vip := &in.Config.Interfaces[0], &in.Config.VIPs[0]
	remote := addr("192.0.2.7")
	en1.Peers = []config.Peer{{Address: addr("10.68.1.2"), ASN: 65000, BFD: &config.BFD{}}}
	in.Config.Peers = []config.Peer{{Address: remote, ASN: 65010}}
	vip.Role, vip.Exclusive = &config.Role{Rank: 1}, true
	h := History{
		Interfaces: map[string]InterfaceHistory{en1.Name: {
			Open: true, Opened: t0, Index: 2, Replaced: t0, Excused: true, Cause: "x", Detail: "x",
			Penalty: Penalty{Value: 1, At: t0, Flaps: 1, Suppressed: true}, Router: addr("fe80::2"),
		}},
		VIPs:    map[netip.Prefix]VIPHistory{vip.Prefix: {Open: true, Penalty: Penalty{Value: 1, At: t0, Flaps: 1, Suppressed: true}}},
		Roles:   map[netip.Prefix]RoleHistory{vip.Prefix: {Front: true, Free: t0}},
		Owners:  map[netip.Prefix]OwnerHistory{vip.Prefix: {Peers: "x"}},
		Lost:    map[netip.Prefix][]Loss{vip.Prefix: {{Peer: "x", Until: t0, Transitions: 1}}},
		BFD:     map[Session]BFDHistory{{en1.Name, addr("10.68.1.2")}: {Downs: 1, FailedAt: t0, UpAt: t0}},
		Local:   map[netip.Addr]netip.Addr{remote: addr("10.68.1.1")},
		Learned: []LearnedPath{{Speaker: en1.Name, Interface: en1.Name, Used: true, Path: bgp.ReceivedPath{Prefix: prefix("0.0.0.0/0")}}},
	}
	v := reflect.ValueOf(h)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("nobody knows whether a reload keeps %s", v.Type().Field(i).Name)
		}
	}
	s, err := newSetup(in.Config, func(config.Check) (health.Checker, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(h, h.after(s, s), compare...); diff != "" {
		t.Errorf("a reload of the same (-before +after):\n%s", diff)
	}
}

// Whatever changes in a check makes another one of it.
func TestCheckKeyForgetsNothing(t *testing.T) {
	t.Parallel()
	kinds := map[string]func() config.Check{
		"http":   func() config.Check { return config.Check{HTTP: &config.HTTPCheck{URL: &url.URL{}}} },
		"tcp":    func() config.Check { return config.Check{TCP: &config.TCPCheck{}} },
		"exec":   func() config.Check { return config.Check{Exec: &config.ExecCheck{}} },
		"dns":    func() config.Check { return config.Check{DNS: &config.DNSCheck{}} },
		"grpc":   func() config.Check { return config.Check{GRPC: &config.GRPCCheck{}} },
		"icmp":   func() config.Check { return config.Check{ICMP: &config.ICMPCheck{}} },
		"listen": func() config.Check { return config.Check{Listen: &config.ListenCheck{}} },
	}
	var forgotten []string
	known := 0
	for name, one := range kinds {
		base := one()
		before := CheckID(&base)
		try := func(what string, change func(*config.Check)) {
			c := one()
			change(&c)
			if CheckID(&c) == before {
				forgotten = append(forgotten, name+" "+what)
			}
		}
		of := reflect.TypeFor[config.Check]()
		for i := range of.NumField() {
			f := of.Field(i)
			at := reflect.ValueOf(base).Field(i)
			switch {
			case f.Type.Kind() != reflect.Pointer:
				if f.Name != "Name" { // of no matter but to a program
					try(f.Name, func(c *config.Check) { alter(t, reflect.ValueOf(c).Elem().Field(i)) })
				}
			case !at.IsNil():
				known++
				for j := range f.Type.Elem().NumField() {
					try(f.Type.Elem().Field(j).Name, func(c *config.Check) { alter(t, reflect.ValueOf(c).Elem().Field(i).Elem().Field(j)) })
				}
			}
		}
	}
	if pointers := countPointers(reflect.TypeFor[config.Check]()); known != pointers {
		t.Errorf("%d kinds of checks are looked at, there are %d", known, pointers)
	}
	if forgotten != nil {
		t.Errorf("a change makes no other check: %q", forgotten)
	}
}

func countPointers(of reflect.Type) (n int) {
	for f := range of.Fields() {
		if f.Type.Kind() == reflect.Pointer {
			n++
		}
	}
	return n
}

// alter gives a value that is not the zero one.
func alter(t *testing.T, v reflect.Value) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *netip.Addr:
		*x = addr("192.0.2.1")
		return
	case *netip.AddrPort:
		*x = netip.MustParseAddrPort("192.0.2.1:1")
		return
	case **url.URL:
		*x = &url.URL{Host: "x"}
		return
	case *time.Duration:
		*x = time.Second
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("x")
	case reflect.Int:
		v.SetInt(1)
	case reflect.Uint16:
		v.SetUint(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	default:
		t.Fatalf("no value for %s", v.Type())
	}
}
