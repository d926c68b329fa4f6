package topologies

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// The routers of topology vipa as the host's configuration names them: r1 runs
// FRR and is behind en1, r5 runs BIRD and is behind en5.
var (
	r1v4 = netip.MustParseAddr("10.68.1.2")
	r1v6 = netip.MustParseAddr("fd68:1::2")
	r5v4 = netip.MustParseAddr("10.68.5.2")
	r5v6 = netip.MustParseAddr("fd68:5::2")
)

func allPeers() []netip.Addr { return []netip.Addr{r1v4, r1v6, r5v4, r5v6} }

// peersOf are the peers whose sessions carry the family of a prefix: the routers
// negotiate one family per session.
func peersOf(p netip.Prefix) []netip.Addr {
	if p.Addr().Is4() {
		return []netip.Addr{r1v4, r5v4}
	}
	return []netip.Addr{r1v6, r5v6}
}

// prefix4 and prefix6 are VIPs besides those of the topology's own file.
func prefix4(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 68, 6, byte(n)}), 32)
}

// hostConfig is the configuration of the host of topology vipa, in words that
// tests change.
type hostConfig struct {
	asn       int  // 65010 if zero
	holdTime  int  // seconds, 9 if zero; we send KEEPALIVE every second
	coldStart bool // without graceful restart
	unprobed  bool // without probes of the gateways
	vips      []string
	more      string // further sections
}

// sampleVIPs are those of the topology's own file.
func sampleVIPs() []string {
	return []string{vipLine("vipa", vip4, "preferred_source: true"), vipLine("vipa6", vip6, "preferred_source: true")}
}

// vipLine is one entry of vips.
func vipLine(name string, p netip.Prefix, more ...string) string {
	return "{" + strings.Join(append([]string{"name: " + name, fmt.Sprintf("address: %q", p)}, more...), ", ") + "}"
}

// fileCheck is a check that passes while a file of the host exists. A run that meets
// a machine that stands still has failed, and decides nothing; the verdict outlasts
// that, too: it expires after three intervals and the timeout.
func fileCheck(name, path string) string {
	return fmt.Sprintf("{name: %s, exec: {command: [/usr/bin/test, -e, %s]}, interval: 500ms, fast_interval: 100ms, timeout: 500ms, rise: 1, fall: 4}", name, path)
}

func checks(list ...string) string { return "checks: [" + strings.Join(list, ", ") + "]" }

func (c hostConfig) String() string {
	asn, hold := cmp.Or(c.asn, 65010), cmp.Or(c.holdTime, 9)
	probe := "gateway_probe: {enabled: true}"
	if c.unprobed {
		probe = "gateway_probe: {enabled: false}"
	}
	return fmt.Sprintf(`bgp:
  asn: %d
  router_id: 10.68.1.1
  timers: {hold_time: %ds, keepalive: 1s, connect_retry: 1s}
  graceful_restart: {enabled: %t, restart_time: 30s}
interfaces:
  - name: en1
    hold_up: 500ms
    gateway: [10.68.1.2, "fd68:1::2"]
    %s
    peers: [{address: 10.68.1.2, asn: 65000}, {address: "fd68:1::2", asn: 65000}]
  - name: en5
    hold_up: 500ms
    gateway: [10.68.5.2, "fd68:5::2"]
    %s
    peers: [{address: 10.68.5.2, asn: 65000}, {address: "fd68:5::2", asn: 65000}]
shutdown: {time: 10s, wait: 500ms}
vips:
  - %s
%s`, asn, hold, !c.coldStart, probe, probe, strings.Join(c.vips, "\n  - "), c.more)
}

// startWith starts the daemon with a configuration and waits until all of it is
// announced.
func startWith(t *testing.T, l *lab.Lab, c hostConfig) *lab.Speaker {
	t.Helper()
	l.Node("host").WriteFile(lab.ConfigPath, c.String())
	return startSpeaker(t, l)
}

// reload gives the daemon another configuration and waits until it is in force.
func reload(t *testing.T, host *lab.Node, s *lab.Speaker, c hostConfig) {
	t.Helper()
	host.WriteFile(lab.ConfigPath, c.String())
	if out, err := s.Command("reload"); err != nil {
		t.Fatalf("reload: %v\n%s", err, out)
	}
}

// sessionsUp is a condition for WaitStatus.
func sessionsUp(st *status.Status) error {
	for _, p := range st.Peers {
		if p.State != "Established" {
			return fmt.Errorf("peer %v on %s is %s: %s", p.Address, p.Interface, p.State, p.LastError)
		}
	}
	return lab.That(len(st.Peers) > 0, "no peers yet")
}

// vipNamed returns a VIP of the status.
func vipNamed(st *status.Status, name string) (status.VIP, error) {
	i := slices.IndexFunc(st.VIPs, func(v status.VIP) bool { return v.Name == name })
	if i < 0 {
		return status.VIP{}, fmt.Errorf("no vip %s in the status", name)
	}
	return st.VIPs[i], nil
}

// withheld is a condition for WaitStatus: the VIP is announced nowhere, for the
// reason.
func withheld(name string, reason status.Reason) func(*status.Status) error {
	return func(st *status.Status) error {
		v, err := vipNamed(st, name)
		if err != nil {
			return err
		}
		return lab.That(!v.Announced && v.Reason == reason, "vip %s: announced %t, reason %q %s", name, v.Announced, v.Reason, v.Detail)
	}
}

// settled waits until the host's own addresses are usable, so that its state is
// the same from then on.
func settled(t *testing.T, host *lab.Node) {
	t.Helper()
	lab.Eventually(t, 10*time.Second, "no address is tentative", func() error {
		out := host.Run("ip", "-6", "-o", "addr", "show", "tentative")
		return lab.That(strings.TrimSpace(out) == "", "%s", out)
	})
}

// to returns the messages that the capture's node has sent to the peer since
// then, and that ok accepts.
func to(c *lab.Capture, peer netip.Addr, since time.Time, ok func(lab.Message) bool) []lab.Message {
	return slices.DeleteFunc(c.Messages(), func(m lab.Message) bool {
		return !m.Out || m.Dst.Addr() != peer || m.Time.Before(since) || !ok(m)
	})
}

func announces(p netip.Prefix) func(lab.Message) bool {
	return func(m lab.Message) bool { return m.Announces(p) }
}

func withdraws(p netip.Prefix) func(lab.Message) bool {
	return func(m lab.Message) bool { return m.Withdraws(p) }
}

// changes accepts UPDATEs that say something.
func changes(m lab.Message) bool { return m.Type == lab.Update && !m.EndOfRIB }

// waitSent waits for a message to the peer and returns the first one.
func waitSent(t *testing.T, c *lab.Capture, d time.Duration, what string, peer netip.Addr, since time.Time, ok func(lab.Message) bool) lab.Message {
	t.Helper()
	var found lab.Message
	lab.Eventually(t, d, fmt.Sprintf("the host sends %v: %s", peer, what), func() error {
		list := to(c, peer, since, ok)
		if len(list) > 0 {
			found = list[0]
		}
		return lab.That(len(list) > 0, "it has not")
	})
	return found
}

// waitQuiet waits until everything that was decided before now is on the wire:
// every peer has got a KEEPALIVE that was sent well after. It returns when that
// was so.
func waitQuiet(t *testing.T, c *lab.Capture, peers ...netip.Addr) time.Time {
	t.Helper()
	// The speaker processes get their orders a moment after the decision.
	lab.Pass(200 * time.Millisecond)
	decided := time.Now()
	for _, peer := range peers {
		waitSent(t, c, 10*time.Second, "KEEPALIVE", peer, decided, func(m lab.Message) bool { return m.Type == lab.Keepalive })
	}
	return time.Now()
}

// metric returns the value of a series of the daemon's metrics, such as
// `vipspeaker_vip_bound{vip="vipa"}`.
func metric(t *testing.T, host *lab.Node, series string) string {
	t.Helper()
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return host.Dial(ctx, network, netip.AddrPort{}, netip.MustParseAddrPort(addr))
		},
	}}
	r, err := client.Get("http://127.0.0.1:9179/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close() //nolint:errcheck // it is only read
	for s := bufio.NewScanner(r.Body); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), series+" "); ok {
			return value
		}
	}
	return ""
}

// uptimes are the starts of all sessions, which a change that touches none
// leaves as they are.
func uptimes(st *status.Status) map[string]time.Time {
	list := map[string]time.Time{}
	for _, p := range st.Peers {
		list[fmt.Sprintf("%s %v %s %d", p.Interface, p.Address, p.State, p.Transitions)] = p.Since
	}
	return list
}

// routerHas waits until the routers' kernels have the VIP by their own link, or
// have it not.
func routersHave(t *testing.T, l *lab.Lab, p netip.Prefix, want bool) {
	t.Helper()
	for node, dev := range map[string]string{"r1": "e1", "r5": "e5"} {
		lab.Eventually(t, 10*time.Second, fmt.Sprintf("%s has %v: %t", node, p, want), func() error {
			hops, err := l.Node(node).Route(p)
			if err != nil {
				return err
			}
			has := slices.ContainsFunc(hops, func(h lab.Hop) bool { return h.Dev == dev && !h.Dead })
			return lab.That(has == want, "it is %v", hops)
		})
	}
}

// bothSources is a condition for WaitStatus: the VIPs of the sample are the
// preferred source on both interfaces.
func bothSources(st *status.Status) error {
	for _, name := range []string{"vipa", "vipa6"} {
		v, err := vipNamed(st, name)
		if err != nil {
			return err
		}
		if !slices.Equal(v.Source, []string{"en1", "en5"}) {
			return fmt.Errorf("vip %s is source on %v", name, v.Source)
		}
	}
	return nil
}

// clientHas waits until the client has a route to the VIP by both routers.
func clientHas(t *testing.T, client *lab.Node, p netip.Prefix) {
	t.Helper()
	lab.Eventually(t, 10*time.Second, fmt.Sprintf("the client has %v", p), func() error {
		hops, err := client.Route(p)
		if err != nil {
			return err
		}
		return lab.That(len(lab.Live(hops)) == 2, "it is %v", hops)
	})
}
