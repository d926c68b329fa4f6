//go:build long

package topologies

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// notSpoken is a cell of the matrix that a routing software has nothing for.
type notSpoken struct {
	software lab.Software
	feature  string
	// why, and source is where that is written or how it is seen.
	why, source string
	// proof fails if the software speaks it after all.
	proof func(t *testing.T, r *interopRun)
}

func silences() []notSpoken {
	return []notSpoken{
		{
			lab.OpenBGPD, "rfc8950", "It has no extended next hop capability.",
			"bgpd.conf(5) of 7.7, `announce`: there is none among the capabilities; the host sees none in its OPEN, although it takes IPv4 on the session. The IPv6 VIP is there.",
			openBGPDWithoutRFC8950,
		},
		{
			lab.OpenBGPD, "bfd", "BFD is not in OpenBGPD.",
			"bgpd.conf(5) of 7.7 does not have the word; `bgpd -n` refuses `bfd yes` at a neighbour. The BGP session is up without.",
			func(t *testing.T, r *interopRun) {
				r.refuses(t, "AS 65000\nneighbor 192.0.2.1 {\n remote-as 65010\n bfd yes\n}\n", "syntax error")
				r.withoutBFD(t)
			},
		},
		{
			lab.ExaBGP, "unnumbered", "A neighbour is an address without an interface.",
			"`exabgp --test` of 4.2 refuses `neighbor fe80::1%e3`, and has no `source-interface`, which later versions have in its place ([exabgp#1419](https://github.com/Exa-Networks/exabgp/pull/1419)).",
			func(t *testing.T, r *interopRun) {
				const config = "neighbor %s { router-id 192.0.2.2; local-address fe80::2; %s local-as 65000; peer-as 65010; }\n"
				r.refuses(t, fmt.Sprintf(config, "fe80::1%e3", ""), `"fe80::1%e3" is an invalid IP address`)
				r.refuses(t, fmt.Sprintf(config, "fe80::1", "source-interface e3;"), `invalid keyword "source-interface"`)
				r.neverUnnumbered(t)
			},
		},
		{
			lab.ExaBGP, "bfd", "BFD is not in ExaBGP.",
			"exabgp.conf(5) does not have the word; `exabgp --test` of 4.2 says `invalid keyword \"bfd\"`. The BGP session is up without.",
			func(t *testing.T, r *interopRun) {
				r.refuses(t, "neighbor 192.0.2.1 { router-id 192.0.2.2; local-address 192.0.2.2; local-as 65000; peer-as 65010; bfd enable; }\n", `invalid keyword "bfd"`)
				r.withoutBFD(t)
			},
		},
		{
			lab.ExaBGP, "gr", "It keeps nothing for a neighbour that restarts: its `graceful-restart` is for its own restarts.",
			"4.2.21 acts on the capability in one place (`exabgp/reactor/peer.py`), which ends its own sessions without a NOTIFICATION; its helper programs hear `\"state\": \"down\"` as soon as the daemon is killed, and every path again when it is back.",
			exaBGPWithoutGR,
		},
		{
			lab.GoBGP, "bfd", "BFD came with version 4.",
			"`gobgpd --dry-run` of 3.10 says that a neighbour `has invalid keys: bfd`. The BGP session is up without.",
			func(t *testing.T, r *interopRun) {
				r.refuses(t, `[global.config]
  as = 65000
  router-id = "192.0.2.2"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "192.0.2.1"
    peer-as = 65010
  [neighbors.bfd.config]
    enabled = true
`, "has invalid keys: bfd")
				r.withoutBFD(t)
			},
		},
	}
}

func silence(software lab.Software, feature string) *notSpoken {
	for _, s := range silences() {
		if s.software == software && s.feature == feature {
			return &s
		}
	}
	return nil
}

// refuses fails the test unless the software refuses a configuration with a text.
func (r *interopRun) refuses(t *testing.T, config, text string) {
	t.Helper()
	if got := r.router.Refusal(r.software, config); !strings.Contains(got, text) {
		t.Errorf("%s does not say %q of\n%s\nbut %q", r.software, text, config, got)
	}
}

// neverUnnumbered waits until the daemon has something to say about its unnumbered
// session, which must not be up.
func (r *interopRun) neverUnnumbered(t *testing.T) {
	t.Helper()
	p := r.peer(t, func(p *status.Peer) error { return lab.That(p.LastError != "", "%s", p.State) }, "the unnumbered session has been tried",
		func(p *status.Peer) bool { return p.Interface == "en3" && p.Found != "" })
	if p.State == "Established" || p.Transitions > 0 {
		t.Errorf("it has come up: %+v", p)
	}
	t.Logf("%s: %s", p.State, p.LastError)
}

// withoutBFD waits until the session for BFD is up and BFD is not.
func (r *interopRun) withoutBFD(t *testing.T) {
	t.Helper()
	r.path(t, interopBFD, vip4, interopBFD)
	p := r.peerAt(t, "10.68.15.2", "BGP is up", established)
	if p.BFD == nil || p.BFD.State != "Down" {
		t.Errorf("BFD: %+v", p.BFD)
	}
}

func openBGPDWithoutRFC8950(t *testing.T, r *interopRun) {
	r.path(t, interop8950, vip6, interop8950)
	p := r.peerAt(t, "fd68:12::2", "the session is up", established)
	if len(p.Negotiated.Families) != 2 || p.Negotiated.ExtendedNextHop || p.Transitions != 1 {
		t.Errorf("negotiated: %+v, %d transitions", p.Negotiated, p.Transitions)
	}
	if err := r.without(interop8950, vip4); err != nil {
		t.Error(err)
	}
}

func exaBGPWithoutGR(t *testing.T, r *interopRun) {
	r.path(t, interop4, vip4, interop4)
	r.s.Kill()
	lab.Eventually(t, 20*time.Second, "it says that the session is down", func() error {
		up, err := r.router.Up(interop4)
		if err != nil {
			return err
		}
		return lab.That(!up, "it is up")
	})
	if err := r.without(interop4, vip4); err != nil {
		t.Error(err)
	}
	r.s = lab.StartSpeaker(r.host, binary(t))
	r.path(t, interop4, vip4, interop4)
}
