package lab

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct{ name, from, to, want string }{
		{"unknown key", "image:", "imagee:", "field imagee not found"},
		{"other kind", "kind: linux", "kind: bridge", "only linux can be laid out here"},
		{"no such node", `"a:a0"`, `"c:a0"`, "endpoint c:a0: no such node"},
		{"one end", `["a:a0", "b:b0"]`, `["a:a0"]`, "needs two endpoints"},
		{"same end", `"b:b0"`, `"a:a0"`, "endpoint a:a0: used twice"},
		{"long interface", `"b:b0"`, `"b:b012345678901234"`, "at most 15 characters"},
		{"bind outside", "hello:/etc/vipspeaker/hello", "hello:/usr/bin/hello", "want file:/etc/…"},
		{"absolute bind", "hello:/etc/vipspeaker/hello", "/hello:/etc/vipspeaker/hello", "want file:/etc/…"},
		{"shared with nobody", "container:b", "container:x", "network-mode container:x: no such node"},
		{"shell in exec", "ip addr add 192.0.2.1/24 dev a0", `sh -c "true"`, "want plain words"},
		{"no image", "      image: nicolaka/netshoot:v0.13\n      binds", "      binds", "node b: no image"},
		{"no nodes", pair, "name: x\n", "topology.nodes are required"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(pair, tc.from, tc.to, 1)
			if text == pair {
				t.Fatal("nothing was replaced")
			}
			if _, err := parse([]byte(text)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

// TestFiles parses every topology file there is, with its binds.
func TestFiles(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, e := range entries {
		dir := "../" + e.Name()
		if _, err := os.Stat(dir + "/topology.clab.yml"); err != nil {
			continue
		}
		seen++
		topo, err := Load(dir)
		if err != nil {
			t.Error(err)
			continue
		}
		if topo.Name != e.Name() {
			t.Errorf("%s: name %q", dir, topo.Name)
		}
		for name, n := range topo.Topology.Nodes {
			for _, b := range n.Binds {
				source, _, _ := splitBind(b)
				if _, err := os.Stat(dir + "/" + source); err != nil {
					t.Errorf("%s: node %s: %v", dir, name, err)
				}
			}
		}
	}
	if seen < 5 {
		t.Errorf("%d topologies", seen)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const marker = "ffffffffffffffffffffffffffffffff"

func TestDecodeMessage(t *testing.T) {
	ptr := func(v uint32) *uint32 { return &v }
	for _, tc := range []struct {
		name, hex string
		want      Message
	}{
		{"keepalive", "0013 04", Message{Type: Keepalive}},
		{"open", "002b 01 04 fdf2 0009 0a440101 0e 02 0c 01 04 00010001 41 04 0000fdf2", Message{Type: Open, HoldTime: 9, Capabilities: []uint8{1, 65}}},
		{"update", "0047 02 0004 18 c00002 0038 400101 00 4002 06 02 01 0000fdf2 400304 0a440101 800404 0000000a 400504 00000064" +
			" c00804 fdf20064 e0200c 0000fdf2 00000001 00000002 20 0a440601", Message{
			Type:      Update,
			Withdrawn: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Announced: []netip.Prefix{netip.MustParsePrefix("10.68.6.1/32")},
			NextHop: netip.MustParseAddr("10.68.1.1"), ASPath: []uint32{65010}, MED: ptr(10), LocalPref: ptr(100),
			Communities: []uint32{65010<<16 | 100}, LargeCommunities: [][3]uint32{{65010, 1, 2}},
		}},
		{"ipv6", "0000 02 0000 002e 900e 002a 0002 01 10 fd680001000000000000000000000001 00 80 fd680006000000000000000000000001", Message{
			Type: Update, Announced: []netip.Prefix{netip.MustParsePrefix("fd68:6::1/128")}, NextHop: netip.MustParseAddr("fd68:1::1"),
		}},
		{"ipv6 withdraw", "0000 02 0000 0017 800f14 0002 01 80 fd680006000000000000000000000001", Message{
			Type: Update, Withdrawn: []netip.Prefix{netip.MustParsePrefix("fd68:6::1/128")},
		}},
		{"end of rib", "0017 02 0000 0000", Message{Type: Update, EndOfRIB: true}},
		{"end of rib, ipv6", "001d 02 0000 0006 800f03 0002 01", Message{Type: Update, EndOfRIB: true}},
		{"shutdown", "001a 03 06 02 04 64656164", Message{Type: Notification, Code: 6, Subcode: 2, Text: "dead"}},
		{"hold timer", "0015 03 04 00", Message{Type: Notification, Code: 4}},
		{"cut short", "0017 02 0000 00ff 40", Message{Type: Update}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw := unhex(t, marker+tc.hex)
			got := decodeMessage(raw)
			got.Raw = nil
			if diff := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
				cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestStreamPutsSegmentsInOrder(t *testing.T) {
	message := unhex(t, marker+"001304")
	both := append(bytes.Clone(message), message...)
	type segment struct {
		flags    uint8
		seq      uint32
		from, to int
	}
	for name, segments := range map[string][]segment{
		"in order":       {{SYN, 99, 0, 0}, {ACK, 100, 0, 5}, {ACK, 105, 5, 38}},
		"swapped":        {{SYN, 99, 0, 0}, {ACK, 105, 5, 38}, {ACK, 100, 0, 5}},
		"sent twice":     {{SYN, 99, 0, 0}, {ACK, 100, 0, 20}, {ACK, 100, 0, 20}, {ACK, 110, 10, 38}},
		"late":           {{ACK, 100, 0, 20}, {ACK, 120, 20, 38}},
		"in the middle":  {{ACK, 90, 3, 13}, {ACK, 100, 0, 38}},
		"number wraps":   {{SYN, 1<<32 - 11, 0, 0}, {ACK, 1<<32 - 10, 0, 20}, {ACK, 10, 20, 38}},
		"wraps, swapped": {{SYN, 1<<32 - 11, 0, 0}, {ACK, 10, 20, 38}, {ACK, 1<<32 - 10, 0, 20}},
	} {
		t.Run(name, func(t *testing.T) {
			var s stream
			var got [][]byte
			for _, g := range segments {
				got = append(got, s.add(g.flags, g.seq, both[g.from:g.to])...)
			}
			if diff := cmp.Diff([][]byte{message, message}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0xff}, 60))
	f.Fuzz(func(_ *testing.T, b []byte) {
		decodeIP(b)
		var s stream
		for _, raw := range s.add(ACK, 1, append(bytes.Repeat([]byte{0xff}, 16), b...)) {
			_ = decodeMessage(raw).String()
		}
	})
}

// An outage is what was lost, whatever held the probe up before and after.
func TestOutage(t *testing.T) {
	began := time.Now()
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	f := &flow{
		sent:     []time.Time{at(0), at(1), at(90), at(91), at(95), at(96), at(200), at(201), at(203)},
		answered: []bool{true, true, true, false, false, true, true, false, false},
	}
	r := ProbeResult{flows: []FlowResult{f.result()}}
	if r.Outage(began) != 5*time.Millisecond || r.Outage(at(100)) != 2*time.Millisecond || r.Outage(at(300)) != 0 {
		t.Errorf("outages %v", f.result().outages)
	}
	if r.Gap(began) != 104*time.Millisecond {
		t.Errorf("gap %s", r.Gap(began))
	}
}
