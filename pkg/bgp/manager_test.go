package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/test/stopwatch"
)

// startManager runs a manager until the test ends.
func startManager(t *testing.T, o Options, change func(*managerTiming)) *Manager {
	t.Helper()
	if o.Log == nil {
		o.Log = testLog(t)
	}
	if o.Command == nil {
		o.Command = testCommand
	}
	m := NewManager(o)
	if change != nil {
		change(&m.timing)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return m
}

func speakerState(m *Manager, name string) SpeakerState {
	st, _ := m.State().Speaker(name)
	return st
}

func upSessions(m *Manager, name string) int {
	n := 0
	for _, p := range speakerState(m, name).Peers {
		if p.State == Established {
			n++
		}
	}
	return n
}

func awaitUp(t *testing.T, m *Manager, name string, peers int) {
	t.Helper()
	eventually(t, patience, func() string { return fmt.Sprintf("%d sessions of %s: %+v", peers, name, m.State()) },
		func() bool { return upSessions(m, name) == peers })
}

func awaitPhase(t *testing.T, m *Manager, name string, ok func(SpeakerState) bool) SpeakerState {
	t.Helper()
	var st SpeakerState
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", m.State()) }, func() bool {
		st = speakerState(m, name)
		return ok(st)
	})
	return st
}

func announce(m *Manager, speakers ...SpeakerConfig) { m.Announce(Desired{Speakers: speakers}) }

func stop(t *testing.T, m *Manager, mode StopMode, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := m.Stop(ctx, mode, text); err != nil {
		t.Error(err)
	}
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// The first UPDATE reaches a router that dials well within a second after the
// wish, process start included; a drain withdraws and then says goodbye.
func TestManagerFromStartToDrain(t *testing.T) {
	host, router := addr(t), addr(t)
	m := startManager(t, Options{}, nil)
	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Paths = []Path{path4(1)}
	watch, start := stopwatch.Start(t), time.Now()
	announce(m, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	p.await(patience, hasPrefix("[+10.100.0.1/32] via "+host.String()))
	t.Logf("first UPDATE after %s", time.Since(start))
	if d := watch.Elapsed(); d > time.Second {
		t.Errorf("first UPDATE after %s, want less than 1 s", d)
	}
	awaitUp(t, m, "en1", 1)
	st := awaitPhase(t, m, "en1", func(s SpeakerState) bool { return s.Phase == Running && len(s.Announced) == 1 })
	if st.PID == os.Getpid() || st.Restarts != 0 || st.Error != "" || !st.Peers[0].IPv4 || !st.Peers[0].IPv6 {
		t.Errorf("state is %+v", st)
	}
	announce(m, cfg)
	cfg.Paths = append(cfg.Paths, path4(2))
	announce(m, cfg)
	if diff := cmp.Diff([]string{"[+10.100.0.2/32] via " + host.String() + " [{AsPath: 65010}]"}, p.gets(1, 200*time.Millisecond)); diff != "" {
		t.Errorf("one path more (-want +got):\n%s", diff)
	}
	m.Withdraw(Desired{Speakers: []SpeakerConfig{conf("en1", 65010, host, peer(router, 65001))}})
	p.await(patience, func(all []string) bool { return len(all) == 2 })
	announce(m, cfg)
	p.await(patience, func(all []string) bool { return len(all) == 2 })
	stop(t, m, StopDrain, "maintenance")
	got := p.await(patience, hasPrefix("notification"))
	if len(got) != 3 || !strings.HasPrefix(got[0], "[-10.100.0.") || !strings.HasPrefix(got[1], "[-10.100.0.") || got[2] != "notification 6/2 maintenance" {
		t.Errorf("drain sent %q", got)
	}
	if !gone(st.PID) || speakerState(m, "en1").Phase != Stopped {
		t.Errorf("after the stop: %+v", m.State())
	}
}

// A restart leaves without a word: the router sees the end of the stream only.
func TestStopForRestartIsSilent(t *testing.T) {
	host, router := addr(t), addr(t)
	m := startManager(t, Options{}, nil)
	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Paths = []Path{path4(1)}
	announce(m, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	p.await(patience, hasPrefix("[+"))
	stop(t, m, StopRestart, "")
	eventually(t, patience, func() string { return "end of stream" }, func() bool { return p.ended() != nil })
	if got := p.seen(); got != nil || (!errors.Is(p.ended(), io.EOF) && !errors.Is(p.ended(), syscall.ECONNRESET)) {
		t.Errorf("router saw %q, then %v", got, p.ended())
	}
}

// twoSpeakers starts a manager with two speakers, each with a session.
func twoSpeakers(t *testing.T, m *Manager) (hosts, routers [2]netip.Addr, raws [2]*rawPeer) {
	t.Helper()
	var cfgs []SpeakerConfig
	for i := range 2 {
		hosts[i], routers[i] = addr(t), addr(t)
		cfg := conf(fmt.Sprintf("en%d", i), 65010, hosts[i], peer(routers[i], 65001))
		cfg.Paths = []Path{path4(1)}
		cfgs = append(cfgs, cfg)
	}
	announce(m, cfgs...)
	for i := range 2 {
		raws[i] = dialRaw(t, routers[i], hosts[i], 65001, rawOptions{})
		awaitUp(t, m, cfgs[i].Name, 1)
		raws[i].await(patience, hasPrefix("[+"))
	}
	return hosts, routers, raws
}

// Nineteen octets from a configured router's address end GoBGP's process. They
// cost that interface's sessions, and nothing else.
func TestHostilePeerCostsItsInterfaceOnly(t *testing.T) {
	m := startManager(t, Options{}, nil)
	hosts, routers, raws := twoSpeakers(t, m)
	before := [2]SpeakerState{speakerState(m, "en0"), speakerState(m, "en1")}
	_ = raws[0].conn.Close()
	message := append([]byte(strings.Repeat("\xff", 16)), 0, 19, 9)
	start := time.Now()
	eventually(t, patience, func() string { return fmt.Sprintf("a crash: %+v", m.State()) }, func() bool {
		conn, err := connect(context.Background(), routers[0], hosts[0], nil)
		if err == nil {
			_, _ = conn.Write(message)
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
		return speakerState(m, "en0").Restarts > 0
	})
	dialRaw(t, routers[0], hosts[0], 65001, rawOptions{}).await(patience, hasPrefix("[+10.100.0.1/32]"))
	t.Logf("announced again %s after the attack began", time.Since(start))
	awaitUp(t, m, "en0", 1)
	after := [2]SpeakerState{speakerState(m, "en0"), speakerState(m, "en1")}
	if after[0].PID == before[0].PID || !strings.Contains(after[0].LastExit, "panic:") || !strings.Contains(after[0].LastExit, "handlingError") {
		t.Errorf("attacked speaker: %+v", after[0])
	}
	if after[1].PID != before[1].PID || after[1].Restarts != 0 || after[1].Peers[0].Transitions != 1 || raws[1].ended() != nil {
		t.Errorf("other speaker: %+v", after[1])
	}
	if got := raws[1].seen(); got != nil {
		t.Errorf("other router got %q", got)
	}
}

// A process that hangs is seen, killed and replaced.
func TestHangingProcessIsReplaced(t *testing.T) {
	m := startManager(t, Options{}, func(mt *managerTiming) { mt.ping = 500 * time.Millisecond })
	_, _, raws := twoSpeakers(t, m)
	pid := speakerState(m, "en0").PID
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	st := awaitPhase(t, m, "en0", func(s SpeakerState) bool { return s.Restarts == 1 && s.Phase == Running })
	t.Logf("replaced after %s", time.Since(start))
	if !strings.Contains(st.LastExit, "no answer for 1.5s") || !gone(pid) {
		t.Errorf("state is %+v", st)
	}
	if other := speakerState(m, "en1"); other.Restarts != 0 || raws[1].ended() != nil {
		t.Errorf("other speaker: %+v", other)
	}
}

// A stuck process holds up neither the calls nor the other speakers.
func TestStuckProcessHoldsUpNobody(t *testing.T) {
	m := startManager(t, Options{}, func(mt *managerTiming) { mt.ping, mt.drain = time.Minute, time.Minute })
	hosts, routers, raws := twoSpeakers(t, m)
	if err := syscall.Kill(speakerState(m, "en0").PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	many := make([]Path, 20000)
	for i := range many {
		many[i] = path4(i + 10)
	}
	cfgs := make([]SpeakerConfig, 2)
	for i := range cfgs {
		cfgs[i] = conf(fmt.Sprintf("en%d", i), 65010, hosts[i], peer(routers[i], 65001))
		cfgs[i].Paths = many[:1+19999*(1-i)] // all of them to the stuck one
	}
	watch := stopwatch.Start(t)
	for range 10 {
		start := watch.Elapsed()
		announce(m, cfgs...)
		m.Withdraw(Desired{Speakers: cfgs})
		if d := watch.Elapsed() - start; d > time.Second {
			t.Errorf("calls took %s", d)
		}
	}
	raws[1].await(patience, func(all []string) bool { return len(all) == 2 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- m.Stop(ctx, StopDrain, "bye") }()
	awaitPhase(t, m, "en1", func(s SpeakerState) bool { return s.Phase == Stopped })
	cancel()
	var err error
	select {
	case err = <-stopped:
	case <-time.After(patience):
		t.Fatal("the end of the context does not end the stop")
	}
	if err == nil || !strings.Contains(err.Error(), "speaker en0 did not end in time and was killed") || strings.Contains(err.Error(), "en1") {
		t.Errorf("stop: %v", err)
	}
	if got := raws[1].await(patience, hasPrefix("notification")); got[len(got)-1] != "notification 6/2 bye" {
		t.Errorf("the healthy one sent %q", got)
	}
}

// The loss of a link does not wait behind a long list of paths.
func TestWithdrawOvertakesAnnounce(t *testing.T) {
	host, router := addr(t), addr(t)
	m := startManager(t, Options{Log: slog.New(slog.DiscardHandler)}, nil)
	cfg := conf("en1", 65010, host, peer(router, 65001))
	announce(m, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	awaitUp(t, m, "en1", 1)
	for i := range 20000 {
		cfg.Paths = append(cfg.Paths, path4(i))
	}
	announce(m, cfg)
	p.await(patience, hasPrefix("[+"))
	down := conf("en1", 65010, host)
	down.DownReason = "link down"
	watch := stopwatch.Start(t)
	m.Withdraw(Desired{Speakers: []SpeakerConfig{down}})
	// With the text, unless so much is queued for the router that it would wait.
	all := p.await(patience, hasPrefix("notification 6/"))
	d, paths := watch.Elapsed(), strings.Count(strings.Join(all, ""), "+10.")
	t.Logf("%q %s after the call, when %d of 20000 paths were out", all[len(all)-1], d, paths)
	// A busy machine makes all of it slow, but the list does not come first.
	if d > 500*time.Millisecond && paths > 10000 {
		t.Errorf("Cease after %s, behind %d of 20000 paths", d, paths)
	}
}

// An interface that leaves the configuration is drained; the others stay.
func TestRemovedSpeakerIsDrained(t *testing.T) {
	m := startManager(t, Options{}, nil)
	hosts, routers, raws := twoSpeakers(t, m)
	cfg := conf("en1", 65010, hosts[1], peer(routers[1], 65001))
	cfg.Paths = []Path{path4(1)}
	m.Withdraw(Desired{Speakers: []SpeakerConfig{cfg}})
	announce(m, cfg)
	got := raws[0].await(patience, hasPrefix("notification"))
	if diff := cmp.Diff([]string{"[-10.100.0.1/32]", "notification 6/2 interface en0 is not configured any more"}, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", m.State()) }, func() bool { return len(m.State().Speakers) == 1 })
	if got := raws[1].seen(); got != nil || raws[1].ended() != nil {
		t.Errorf("the other router got %q, %v", got, raws[1].ended())
	}
}

// A new router id replaces the process, new listen addresses only while nothing
// would be lost.
func TestReplacement(t *testing.T) {
	host, more, router := addr(t), addr(t), addr(t)
	m := startManager(t, Options{}, nil)
	cfg := conf("en1", 65010, host, peer(router, 65001))
	announce(m, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	awaitUp(t, m, "en1", 1)
	first := speakerState(m, "en1").PID

	cfg.ListenAddresses = []netip.Addr{host, more}
	announce(m, cfg)
	<-time.After(listenRecheck + 500*time.Millisecond)
	if st := speakerState(m, "en1"); st.PID != first || p.ended() != nil || st.Peers[0].Transitions != 1 {
		t.Errorf("replaced with a session up: %+v", st)
	}
	_ = p.conn.Close()
	st := awaitPhase(t, m, "en1", func(s SpeakerState) bool { return s.PID != first && s.Phase == Running })
	if st.Restarts != 0 {
		t.Errorf("a replacement counts as a crash: %+v", st)
	}
	p = dialRaw(t, router, host, 65001, rawOptions{})
	awaitUp(t, m, "en1", 1)
	if n := speakerState(m, "en1").Peers[0].Transitions; n != 3 {
		t.Errorf("%d transitions, want 3: up, down, up, over two processes", n)
	}
	cfg.RouterID = more
	announce(m, cfg)
	p.await(patience, hasPrefix("notification 6/2 the AS number or router ID of this host changes"))
	dialRaw(t, router, host, 65001, rawOptions{})
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The key crosses to the process and is seen nowhere else.
func TestSecretStaysSecret(t *testing.T) {
	host, router := addr(t), addr(t)
	var out lockedBuffer
	m := startManager(t, Options{Log: slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}, nil)
	p := peer(router, 65001)
	p.Password = "open-sesame"
	cfg := conf("en1", 65010, host, p)
	announce(m, cfg)
	dialRaw(t, router, host, 65001, rawOptions{control: setKey(host, "open-sesame")})
	awaitUp(t, m, "en1", 1)
	m.log.Info("everything", "config", cfg, "state", m.State())
	stop(t, m, StopDrain, "bye")
	if strings.Contains(out.String()+fmt.Sprintf("%+v %#v %v", cfg, cfg, cfg.Peers), "sesame") {
		t.Errorf("the key is in the log:\n%s", out.String())
	}
}

// A process that was taken over may report anything; only prefixes get through.
func TestReportedPrefixesAreValid(t *testing.T) {
	m := NewManager(Options{Log: testLog(t)})
	cfg := SpeakerConfig{Name: "en1"}
	r := newRunner(m, cfg)
	valid := path4(1).Prefix
	newLink(r, nil, cfg).take(message{Announced: &announcedMessage{Prefixes: []netip.Prefix{
		{}, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.68.6.1/24"), valid, netip.MustParsePrefix("224.0.0.0/4"),
	}}})
	if got := r.state.Load().Announced; !slices.Equal(got, []netip.Prefix{valid}) {
		t.Errorf("announced = %v, want %s only", got, valid)
	}
}
