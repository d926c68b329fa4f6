package lab

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bfdPair is a router of each kind, with BFD between them.
const bfdPair = `name: bfdpair
topology:
  defaults: {kind: linux, network-mode: none}
  nodes:
    f:
      image: quay.io/frrouting/frr:8.5.4
      binds: ["daemons:/etc/frr/daemons", "vtysh.conf:/etc/frr/vtysh.conf", "frr.conf:/etc/frr/frr.conf"]
      exec:
        - ip addr add 192.0.2.1/24 dev f0
        - ip addr add 2001:db8::1/64 dev f0 nodad
    b:
      image: kathara/bird2:2.15.1
      binds: ["bird.conf:/etc/bird/bird.conf"]
      exec:
        - ip addr add 192.0.2.2/24 dev b0
        - ip addr add 2001:db8::2/64 dev b0 nodad
  links:
    - endpoints: ["f:f0", "b:b0"]
`

// Both routers run BFD when their configuration says so, and tell of it.
func TestRoutersSpeakBFD(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"topology.clab.yml": bfdPair, "vtysh.conf": "service integrated-vtysh-config\n", "daemons": "zebra=yes\nbgpd=yes\n",
		"frr.conf": `bfd
 peer 192.0.2.2 interface f0
 exit
 peer 2001:db8::2 local-address 2001:db8::1 interface f0
 exit
exit
`,
		"bird.conf": `router id 192.0.2.2;
protocol device {}
protocol bfd bfd1 {
  neighbor 192.0.2.1 dev "b0" local 192.0.2.2;
  neighbor 2001:db8::1 dev "b0" local 2001:db8::2;
}
`,
	} {
		if err := os.WriteFile(dir+"/"+name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := Start(t, dir)
	views := map[string][]string{"f": {"192.0.2.2", "2001:db8::2"}, "b": {"192.0.2.1", "2001:db8::1"}}
	await := func(up bool) {
		t.Helper()
		for name, peers := range views {
			want := map[string]bool{}
			for _, p := range peers {
				want[p] = up
			}
			Eventually(t, 15*time.Second, "BFD on "+name, func() error {
				got, err := l.Node(name).BFDSessions()
				if err != nil {
					return err
				}
				diff := cmp.Diff(want, got)
				return That(diff == "", "%s", diff)
			})
		}
	}
	await(true)
	l.DropFrames("f", "f0")
	l.DropFrames("b", "b0")
	await(false)
}

func TestWantedDaemons(t *testing.T) {
	for name, c := range map[string]struct {
		file, config string
		want         []string
	}{
		"as it says":      {"zebra=yes\nbgpd=yes\nospfd=no\n", "router bgp 1\n", []string{"zebra", "bgpd"}},
		"bfd section":     {"zebra=yes\n", "bfd\n peer 192.0.2.1\n", []string{"zebra", "bfdd"}},
		"bfd neighbour":   {"zebra=yes\n", "router bgp 1\n neighbor 192.0.2.1 bfd profile x\n", []string{"zebra", "bfdd"}},
		"said already":    {"zebra=yes\nbfdd=yes\n", "bfd\n", []string{"zebra", "bfdd"}},
		"only spoken of":  {"zebra=yes\n", "! no bfd here\n description bfd\n no neighbor 192.0.2.1 bfd\n", []string{"zebra"}},
		"part of a word":  {"zebra=yes\n", " neighbor bfdhost peer-group\n", []string{"zebra"}},
		"an empty config": {"zebra=yes\n", "", []string{"zebra"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := wantedDaemons(c.file, c.config); !slices.Equal(got, c.want) {
				t.Errorf("daemons %v, want %v", got, c.want)
			}
		})
	}
}
