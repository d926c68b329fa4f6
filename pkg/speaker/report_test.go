package speaker

import (
	"bytes"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// text logs without times.
func textLog(b *bytes.Buffer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// One line for each transition, and none for what stays as it is.
func TestTransitionsAreLogged(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.config.VIPs = w.config.VIPs[:1]
		var b bytes.Buffer
		opt := w.options()
		opt.Log = textLog(&b, slog.LevelInfo)
		_, stop := w.start(opt)
		w.settled(time.Second)
		expect := func(what string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(strings.Join(want, "\n")+"\n", b.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
			b.Reset()
		}
		expect("start",
			`level=INFO msg="vip withheld" vip=vipa prefix=10.68.6.1/32 reason=no_session detail="en1: the speaker has not started; en5: the speaker has not started"`,
			`level=INFO msg="check verdict" vip=vipa check=web verdict=healthy error=""`,
			`level=INFO msg="interface usable" interface=en1`,
			`level=INFO msg="interface usable" interface=en5`,
			`level=INFO msg="bfd up" peer=10.68.1.2 interface=en1 state=Up diagnostic="" remote_state="" remote_diagnostic=""`,
			`level=INFO msg="bfd up" peer=10.68.5.2 interface=en5 state=Up diagnostic="" remote_state="" remote_diagnostic=""`,
			`level=INFO msg="vip announced" vip=vipa prefix=10.68.6.1/32 interfaces=en1,en5`,
			`level=INFO msg="speaker process runs" interface=en1 pid=0`,
			`level=INFO msg="speaker process runs" interface=en5 pid=0`,
			`level=INFO msg="peer up" peer=10.68.1.2 interface=en1 local_address=10.68.1.1`,
			`level=INFO msg="peer up" peer=10.68.5.2 interface=en5 local_address=10.68.5.1`,
		)
		w.do(func() { w.link("en1", false) })
		w.settled(5 * resync)
		expect("interface fails",
			`level=WARN msg="interface unusable" interface=en1 reason=no_carrier detail="no carrier"`,
			`level=INFO msg="bfd down" peer=10.68.1.2 interface=en1 state=AdminDown diagnostic="" remote_state="" remote_diagnostic=""`,
			`level=WARN msg="peer down" peer=10.68.1.2 interface=en1 state=Down last_error="interface en1: no carrier"`,
		)
		w.do(func() { w.verdict("vipa", health.Unhealthy, time.Hour) })
		w.settled(5 * resync)
		expect("check fails",
			`level=WARN msg="vip withheld" vip=vipa prefix=10.68.6.1/32 reason=check_failed detail="check web"`,
			`level=WARN msg="check verdict" vip=vipa check=web verdict=unhealthy error=""`,
		)
		w.do(func() { w.verdict("vipa", health.Healthy, time.Hour); w.refuse = true })
		w.sleep(5 * resync)
		w.do(func() { w.refuse = false })
		w.settled(time.Second)
		expect("check passes while the kernel fails, which recovers",
			`level=INFO msg="vip withheld" vip=vipa prefix=10.68.6.1/32 reason=no_session detail="en5: the speaker does not announce it yet"`,
			`level=INFO msg="check verdict" vip=vipa check=web verdict=healthy error=""`,
			`level=WARN msg="pass incomplete" error="steer: injected"`,
			`level=INFO msg="vip announced" vip=vipa prefix=10.68.6.1/32 interfaces=en5`,
			`level=INFO msg="pass complete again"`,
		)
		w.stop(stop)
		expect("stop",
			`level=INFO msg=stopping mode=drain within=10s`,
			`level=INFO msg="vip withheld" vip=vipa prefix=10.68.6.1/32 reason=shutdown detail="the daemon is stopping"`,
		)
	})
}

// A peer that has never been up is warned of when it has a reason, and again when
// that is another one, but not over and over.
func TestPeerTroubleIsLogged(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	logger, told := textLog(&b, slog.LevelInfo), troubles{}
	var prev *status.Status
	now := t0
	show := func(state, text string, changed uint64, after time.Duration) (lines int) {
		now = now.Add(after)
		b.Reset()
		next := &status.Status{Time: now, Peers: []status.Peer{{
			Interface: "en1", Address: addr("10.68.1.2"), State: state, LastError: text, Transitions: changed,
		}}}
		list := transitions(prev, next, told)
		for i := range list {
			list[i].Tell(t.Context(), logger, nil, now)
		}
		prev = next
		return strings.Count(b.String(), "level=WARN")
	}
	for i, tt := range []struct {
		state, text string
		transitions uint64
		after       time.Duration
		want        int
	}{
		{"Active", "", 0, 0, 0},
		{"Active", "connect: connection refused", 0, time.Second, 1},
		{"Connect", "connect: connection refused", 0, time.Second, 0},
		{"Active", "Bad Peer AS", 0, time.Second, 1},
		{"Active", "connect: connection refused", 0, time.Second, 0},
		{"Active", "Bad Peer AS", 0, time.Second, 0},
		{"Active", "connect: connection refused", 0, time.Minute, 1},
		{"Down", "interface en1: no carrier", 0, time.Second, 0},
		{"Active", "no answer", 2, time.Hour, 0},
	} {
		if got := show(tt.state, tt.text, tt.transitions, tt.after); got != tt.want {
			t.Errorf("%d: %q logs %d warnings, want %d: %s", i, tt.text, got, tt.want, b.String())
		}
	}
}

// The picture tells all that is known.
func TestPicture(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		w.config.VIPs = w.config.VIPs[:1]
		var last *status.Status
		opt := w.options()
		opt.Version = "v1"
		opt.Publish = func(s *status.Status) { last = s }
		opt.ConfigStatus = func() status.Config { return status.Config{Path: "x.yaml", ReloadOK: true} }
		_, stop := w.start(opt)
		w.settled(time.Second)
		w.do(func() { w.link("en5", false) })
		w.settled(time.Second)
		s := last
		if s.Version != "v1" || s.ASN != 65010 || s.RouterID != addr("10.68.1.1") || s.Config.Path != "x.yaml" || s.Kernel.Device != "vi0" || s.Passes.OK == 0 {
			t.Errorf("picture = %+v", s)
		}
		v := s.VIPs[0]
		if !v.Bound || !v.Wanted || !v.Announced || v.Reason != "" || !v.PreferredSource || len(v.Source) != 2 {
			t.Errorf("vip = %+v", v)
		}
		on1, on5 := v.Interfaces[0], v.Interfaces[1]
		if !on1.Announced || len(on1.Peers) != 1 || on1.Peers[0] != addr("10.68.1.2") {
			t.Errorf("on en1 = %+v", on1)
		}
		if on5.Announced || on5.Reason != status.NoUsableInterface || on5.Detail != "no carrier" {
			t.Errorf("on en5 = %+v", on5)
		}
		if c := v.Checks[0]; c.Name != "web" || c.Verdict != "healthy" || c.Kind != "tcp" {
			t.Errorf("check = %+v", c)
		}
		n := s.Interfaces[1]
		if n.Usable || n.Reason != status.InterfaceCarrier || time.Since(n.Since) < 900*time.Millisecond || n.Speaker.Phase != "running" {
			t.Errorf("en5 = %+v", n)
		}
		p1, p5 := s.Peers[0], s.Peers[1]
		if p1.State != "Established" || p1.Announced != 1 || p1.LocalAddress != addr("10.68.1.1") || p1.ASN != 65000 {
			t.Errorf("peer of en1 = %+v", p1)
		}
		if p5.State != "Down" || p5.LastError != "interface en5: no carrier" || p5.Announced != 0 {
			t.Errorf("peer of en5 = %+v", p5)
		}
		w.stop(stop)
	})
}

// A checker that cannot be made keeps the configuration out, at the start and at
// a reload.
func TestBadChecker(t *testing.T) {
	t.Parallel()
	bubble(t, func(w *world) {
		bad := errors.New("no such file")
		opt := w.options()
		opt.NewChecker = func(config.Check) (health.Checker, error) { return nil, bad }
		if _, err := New(opt); !errors.Is(err, bad) || !strings.Contains(err.Error(), "vipa/web") {
			t.Errorf("New = %v", err)
		}
		fail := false
		opt.NewChecker = func(config.Check) (health.Checker, error) {
			if fail {
				return nil, bad
			}
			return nil, nil
		}
		l, stop := w.start(opt)
		w.settled(time.Second)
		fail = true
		next := loopConfig()
		next.VIPs = next.VIPs[:1]
		if err := l.SetConfig(next); !errors.Is(err, bad) {
			t.Errorf("SetConfig = %v", err)
		}
		w.settled(time.Minute)
		// Those that come and go at run time have no checks, and wait for no file.
		more := loopConfig()
		more.VIPs = append(more.VIPs, config.VIP{Name: "vipd", Prefix: prefix("10.68.6.4/32"), Interfaces: []string{"en1"}})
		w.config = more
		w.verdict("vipd", health.Healthy, time.Hour)
		for _, c := range []*config.Config{more, loopConfig()} {
			w.config = c
			l.SetVIPs(c)
			w.settled(time.Minute)
			if len(w.bound) != len(c.VIPs) || len(w.specs) != 3 {
				t.Errorf("of %d VIPs %v are bound, with %d checks", len(c.VIPs), w.bound, len(w.specs))
			}
		}
		w.stop(stop)
	})
}

// The key of a check changes with everything in it but its schedule, and tells no
// secret.
func TestCheckKey(t *testing.T) {
	t.Parallel()
	u, err := url.Parse("http://10.68.6.1/healthz")
	if err != nil {
		t.Fatal(err)
	}
	base := func() config.Check {
		return config.Check{Kind: "http", Interval: 1, Timeout: 2, Rise: 3, Fall: 4, HTTP: &config.HTTPCheck{
			URL: u, Method: "GET", Headers: []config.Header{{Name: "Authorization", Value: "token"}}, ExpectStatus: []config.StatusRange{{Min: 200, Max: 299}},
		}}
	}
	one := base()
	keys := map[string]string{checkKey(&one): "unchanged"}
	for name, change := range map[string]func(*config.Check){
		"kind":   func(c *config.Check) { c.Kind = "tcp" },
		"method": func(c *config.Check) { c.HTTP.Method = "HEAD" }, "header": func(c *config.Check) { c.HTTP.Headers[0].Value = "other" },
		"status": func(c *config.Check) { c.HTTP.ExpectStatus[0].Max++ }, "body": func(c *config.Check) { c.HTTP.ExpectBody = "ok" },
		"insecure": func(c *config.Check) { c.HTTP.Insecure = true }, "roots": func(c *config.Check) { c.HTTP.CAFile = "/ca" },
		"hold":    func(c *config.Check) { c.HTTP.Hold = true },
		"tcp":     func(c *config.Check) { c.TCP = &config.TCPCheck{} },
		"command": func(c *config.Check) { c.Exec = &config.ExecCheck{Command: []string{"/a b"}} },
		"split":   func(c *config.Check) { c.Exec = &config.ExecCheck{Command: []string{"/a", "b"}} },
		"env": func(c *config.Check) {
			c.Exec = &config.ExecCheck{Command: []string{"/a b"}, Env: []config.Secret{"x=1"}}
		},
	} {
		c := base()
		change(&c)
		if other, taken := keys[checkKey(&c)]; taken {
			t.Errorf("%s and %s have the same key", name, other)
		}
		keys[checkKey(&c)] = name
	}
	two := base()
	two.Interval, two.Timeout, two.Rise, two.Fall = 5, 6, 7, 8
	if keys[checkKey(&two)] != "unchanged" {
		t.Error("the same check on another schedule has another key")
	}
}
