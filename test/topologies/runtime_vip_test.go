package topologies

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// TestRuntimeVIP: a VIP that is added at run time reaches the routers, outlives a
// crash and is removed; one with a TTL goes with the application that does not
// renew it, by a withdraw before the address goes. Nothing else is touched.
func TestRuntimeVIP(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	c := hostConfig{vips: sampleVIPs(), more: "runtime_vips: {allowed_prefixes: [10.68.6.0/24]}\n"}
	wire, kernel := host.Capture(), watchAddresses(t, host)
	s := startWith(t, l, c)
	before := s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	kept, leased := prefix4(50), prefix4(51)

	if out, err := s.Command("vip", "add", "10.68.7.1"); exitCode(err) != 1 {
		t.Errorf("outside of what is allowed: %v\n%s", err, out)
	}
	if out, err := s.Command("vip", "add"); exitCode(err) != 2 {
		t.Errorf("without an address: %v\n%s", err, out)
	}
	if out, err := s.Command("vip", "add", kept.Addr().String(), "--name", "kept", "--communities", "65010:50"); err != nil {
		t.Fatalf("add: %v\n%s", err, out)
	}
	routersHave(t, l, kept, true)
	hasAtRouters(t, l, kept, "65010:50", "(65010,50)")

	// An application registers, renews for longer than its TTL, and dies.
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", host.Path(lab.SocketPath))
	}}}
	ask := func(method, path, body string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://x"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %d %s", method, path, res.StatusCode, text)
		}
	}
	ask(http.MethodPut, "/v1/vips/leased", `{"address": "10.68.6.51", "ttl": "4s"}`)
	routersHave(t, l, leased, true)
	var renewed time.Time
	for began := time.Now(); time.Since(began) < 6*time.Second; {
		renewed = time.Now()
		ask(http.MethodPost, "/v1/vips/leased/renew", "")
		lab.Eventually(t, 5*time.Second, "a second has passed", func() error {
			return lab.That(time.Since(renewed) > time.Second, "not yet")
		})
	}
	if list := to(wire, r1v4, before.Time, withdraws(leased)); len(list) > 0 {
		t.Errorf("withdrawn although renewed: %v", list)
	}
	gone := waitSent(t, wire, 10*time.Second, "withdraw", r1v4, renewed, withdraws(leased))
	after := gone.Time.Sub(renewed) // which was a little later
	if after < 4*time.Second {
		t.Errorf("withdrawn %s after the last renewal, want 4s", after)
	}
	lab.Within(t, "the withdraw after the last renewal", renewed, after, 6*time.Second)
	unbound := kernel.wait(10*time.Second, leased, renewed, "RTM_DELADDR", deleted)
	if unbound.After.Before(gone.Time) {
		t.Errorf("unbound at %s, withdrawn at %s", unbound.After, gone.Time)
	}
	routersHave(t, l, leased, false)

	st := s.WaitStatus(5*time.Second, "the others are left", func(st *status.Status) error {
		return lab.That(len(st.VIPs) == 3, "%d VIPs", len(st.VIPs))
	})
	if len(uptimes(st)) != len(uptimes(before)) {
		t.Errorf("%d sessions", len(uptimes(st)))
	}
	for name, since := range uptimes(before) {
		if !uptimes(st)[name].Equal(since) {
			t.Errorf("session %s was touched", name)
		}
	}

	s.Signal(syscall.SIGKILL)
	s.Wait(5 * time.Second)
	crashed := time.Now()
	s = lab.StartSpeaker(host, binary(t))
	s.WaitStatus(20*time.Second, "everything is announced again", lab.Established)
	if out, err := s.Command("vip", "show", "kept"); err != nil || !strings.Contains(out, ": announced") {
		t.Errorf("after a crash: %v\n%s", err, out)
	}
	for _, p := range []netip.Prefix{kept, vip4} {
		if list := to(wire, r1v4, crashed, withdraws(p)); len(list) > 0 {
			t.Errorf("the crash withdraws %v: %v", p, list)
		}
	}
	if out, err := s.Command("vip", "remove", "kept"); err != nil {
		t.Fatalf("remove: %v\n%s", err, out)
	}
	routersHave(t, l, kept, false)
	if out, err := s.Command("vip", "remove", "kept"); exitCode(err) != 1 {
		t.Errorf("removed twice: %v\n%s", err, out)
	}
	s.WaitStatus(5*time.Second, "the others stay", lab.Established)
}
