package topologies

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// told is a daemon whose events and log lines are read.
type told struct {
	*modes

	follow *follower
	seq    uint64   // of the last event that was looked at
	logged int      // bytes of the log before
	passed []string // states on the way to others, of the last expect
}

func startTold(t *testing.T, c hostConfig) *told {
	t.Helper()
	m := &modes{t: t, l: lab.Start(t, "vipa")}
	m.host = m.l.Node("host")
	m.wire = m.host.Capture()
	c.more += "log: {format: json}\n"
	m.s = startWith(t, m.l, c)
	e := &told{modes: m, follow: followEvents(t, m.host)}
	e.take()
	return e
}

// take returns the events and the lines of the log since the last time.
func (e *told) take() (events []status.Event, log []map[string]any) {
	e.t.Helper()
	st, err := e.s.Status()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, p := range st.Peers {
		if p.State == "Established" {
			waitQuiet(e.t, e.wire, p.Address)
			break
		}
	}
	var out, lines string
	// One that came between the two looks is in the second alone.
	for range 20 {
		if out, err = e.s.Command("events", "-o", "json", "--since", strconv.FormatUint(e.seq, 10)); err != nil {
			e.t.Fatal(err)
		}
		lines = e.s.Log()[e.logged:]
		if strings.HasSuffix("\n"+lines, "\n") && strings.Count(out, "\n") == strings.Count(lines, "\n") {
			break
		}
		lab.Pass(50 * time.Millisecond)
	}
	for line := range strings.Lines(out) {
		var event status.Event
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			e.t.Fatalf("%v in %s", err, line)
		}
		if event.Seq != e.seq+1 {
			e.t.Errorf("event %d comes after %d", event.Seq, e.seq)
		}
		e.seq = event.Seq
		events = append(events, event)
	}
	for line := range strings.Lines(lines) {
		entry := map[string]any{}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			e.t.Errorf("a line of the log is no JSON: %s", line)
		}
		log = append(log, entry)
	}
	e.logged += len(lines)
	return events, log
}

// expect does something and compares the events that come of it, in any order,
// and the lines of the log, which must say the same.
func (e *told) expect(what string, do func(), want ...string) {
	e.t.Helper()
	since := time.Now()
	do()
	e.passed = nil
	events, log := e.take()
	got, said, lines := []string{}, []string{}, []string{}
	for i := range events {
		v := &events[i]
		if words := wordsOf(v); passing(v) {
			e.passed = append(e.passed, words)
		} else {
			got = append(got, words)
		}
		said = append(said, v.Level+" "+v.Message)
		if v.Time.Before(since) || v.Time.After(time.Now()) {
			e.t.Errorf("%s: the time of %s is %v", what, wordsOf(v), v.Time)
		}
	}
	for _, entry := range log {
		level := map[any]string{"INFO": status.LevelInfo, "WARN": status.LevelWarn, "ERROR": status.LevelWarn}[entry["level"]]
		lines = append(lines, fmt.Sprintf("%s %v", level, entry["msg"]))
	}
	slices.Sort(want)
	for _, list := range [][]string{got, said, lines} {
		slices.Sort(list)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		// A check or a probe may have had no answer in time then, which is an event.
		if why := lab.Busy(since, time.Now(), 200*time.Millisecond); why != "" {
			e.t.Logf("%s: events are not judged, for %s (-want +got):\n%s", what, why, diff)
		} else {
			e.t.Errorf("%s: events (-want +got):\n%s", what, diff)
		}
	}
	if diff := cmp.Diff(said, lines); diff != "" {
		e.t.Errorf("%s: (-events +lines of the log):\n%s", what, diff)
	}
}

// passing tells whether a state is one on the way to another, which there may be
// none, one or several of.
func passing(e *status.Event) bool {
	return e.Message == "interface still unusable" || e.Message == "vip withheld" && e.To == string(status.NoSession)
}

// wordsOf is an event without its time, and without what grows in its cause.
func wordsOf(e *status.Event) string {
	text := fmt.Sprintf("%s %s %s", e.Level, e.Kind, e.Subject)
	if e.VIP != "" {
		text += " of " + e.VIP
	}
	if e.Interface != "" {
		text += " on " + e.Interface
	}
	text += ": " + e.Message
	// The states of a session on its way are many, and so are those of a VIP.
	if e.Kind != "peer" && e.Message != "vip announced" && e.From+e.To != "" {
		text += fmt.Sprintf(" %s>%s", e.From, e.To)
	}
	cause, _, _ := strings.Cut(e.Cause, " since ")
	cause = strings.Replace(cause, " does not answer neighbour probes", "", 1)
	if cause != "" {
		text += " because " + cause
	}
	if first, _, several := strings.Cut(text, " (and "); several {
		text = first
	}
	return text
}

// follower runs `vipspeaker events -f` and notes when it shows what.
type follower struct {
	process *lab.Process
	began   time.Time

	mu    sync.Mutex
	shown map[uint64]time.Duration // from the time of an event to its line
}

func followEvents(t *testing.T, host *lab.Node) *follower {
	t.Helper()
	f := &follower{
		process: host.StartProcess("events", binary(t), "events", "--follow", "-o", "json"),
		began:   time.Now(),
		shown:   map[uint64]time.Duration{},
	}
	lab.Eventually(t, 10*time.Second, "the follower shows what was", func() error {
		return lab.That(f.process.Log() != "", "nothing yet")
	})
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		<-done
	})
	old := f.process.Log()
	go func() {
		defer close(done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		read := strings.LastIndex(old, "\n") + 1
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			all := f.process.Log()
			for line := range strings.Lines(all[read:]) {
				var e status.Event
				if strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &e) == nil {
					read += len(line)
					f.mu.Lock()
					f.shown[e.Seq] = time.Since(e.Time)
					f.mu.Unlock()
				}
			}
		}
	}()
	return f
}

// check checks that the events up to that number were shown, half of them within
// 100 ms.
func (f *follower) check(t *testing.T, from, to uint64) {
	t.Helper()
	var took []time.Duration
	lab.Eventually(t, 5*time.Second, "the follower shows all", func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		took = nil
		for seq := from; seq <= to; seq++ {
			d, ok := f.shown[seq]
			if !ok {
				return fmt.Errorf("not event %d", seq)
			}
			took = append(took, d)
		}
		return nil
	})
	slices.Sort(took)
	median := took[len(took)/2]
	t.Logf("%d events shown by a follower after %v (median), %v (worst)", len(took), median, took[len(took)-1])
	lab.Within(t, "half of the events to be shown", f.began, median, 100*time.Millisecond)
}

// TestEvents: whatever changes is an event with its time, subject and cause, and
// a line of the log in the same words, each once.
func TestEvents(t *testing.T) {
	t.Parallel()
	vipa := vipLine("vipa", vip4, "preferred_source: true")
	e := startTold(t, hostConfig{vips: []string{vipa}})
	first := e.seq + 1
	both := hostConfig{more: "log: {format: json}\n", vips: []string{vipa, vipLine("web", prefix4(71), checks(listenCheck("page", 8071)))}}
	start := func() *lab.Process { return startService(t, e.host, "service", "tcp 10.68.6.71:8071") }
	service := start()

	const file = "config " + lab.ConfigPath + ": "
	e.expect("reload", func() {
		reload(t, e.host, e.s, both)
		e.s.WaitStatus(5*time.Second, "all is announced", lab.Established)
	},
		"info "+file+"configuration reloaded", "info kernel kernel: vips bound because 10.68.6.71/32", "info check page of web: check verdict unknown>healthy",
		"info vip web: vip withheld >check_unknown because check page", "info vip web: vip announced")
	e.expect("bad reload", func() {
		e.host.WriteFile(lab.ConfigPath, strings.Replace(both.String(), "asn: 65010", "asn: -1", 1))
		e.s.Signal(syscall.SIGHUP)
		e.s.WaitStatus(5*time.Second, "refused", func(st *status.Status) error { return lab.That(!st.Config.ReloadOK, "not yet") })
	},
		"warn "+file+"configuration refused, the one before it stays in force because "+lab.ConfigPath+
			":2: bgp.asn: -1: must be an AS number from 1 to 4294967294")
	e.expect("service killed", func() {
		service.Kill()
		e.s.WaitStatus(5*time.Second, "withheld", withheld("web", status.CheckFailed))
	},
		"warn check page of web: check verdict healthy>unhealthy because tcp 10.68.6.71:8071: nobody listens",
		"warn vip web: vip withheld announced>check_failed because check page: tcp 10.68.6.71:8071: nobody listens")
	e.expect("service back", func() {
		start()
		e.s.WaitStatus(5*time.Second, "all is announced", lab.Established)
	},
		"info check page of web: check verdict unhealthy>healthy", "info vip web: vip announced")
	e.interfaces()
	e.follow.check(t, first, e.seq)
}

// interfaces breaks a link, and what is behind the other one.
func (e *told) interfaces() {
	e.t.Helper()
	back := func() {
		e.s.WaitStatus(15*time.Second, "all is announced", lab.Established)
		e.s.WaitStatus(15*time.Second, "both are sources", sourceOn("vipa", "en1", "en5"))
		for _, l := range legs() {
			e.s.WaitStatus(15*time.Second, "probes pass", probesAre(l.ifc, "healthy"))
		}
	}
	// at tells of all that is on an interface: %s is there for the peers' addresses.
	at := func(l leg, peers string, interfaces ...string) []string {
		list := interfaces
		for _, peer := range []netip.Addr{l.peer4, l.peer6} {
			for line := range strings.Lines(peers) {
				list = append(list, strings.ReplaceAll(strings.TrimSpace(line), "PEER", fmt.Sprintf("%v on %s", peer, l.ifc)))
			}
		}
		return list
	}
	en1, en5 := legs()[0], legs()[1]
	e.expect("link down", func() {
		e.host.LinkDown("en1")
		e.s.WaitStatus(15*time.Second, "en5 is the source", sourceOn("vipa", "en5"))
		e.s.WaitStatus(15*time.Second, "probes fail", probesAre("en1", "unhealthy"))
	}, at(en1, `warn peer PEER: peer down because interface en1: administratively down
		info probe PEER: probe verdict healthy>unhealthy because attachment: en1 is down`,
		"warn interface en1: interface unusable usable>down because administratively down",
		"info source 10.68.6.1 of vipa on en1: preferred source off")...)
	e.expect("link up", func() {
		e.host.LinkUp("en1")
		back()
	}, at(en1, `info peer PEER: peer up
		info probe PEER: probe verdict unhealthy>healthy because attachment`,
		"info interface en1: interface usable hold_up>usable",
		"info source 10.68.6.1 of vipa on en1: preferred source on")...)
	e.held("en1")
	e.expect("gateway dead", func() {
		e.l.DropFrames("host", "en5")
		e.s.WaitStatus(15*time.Second, "en1 is the source", sourceOn("vipa", "en1"))
		e.s.WaitStatus(15*time.Second, "probes fail", probesAre("en5", "unhealthy"))
	}, at(en5, `warn peer PEER: peer down because interface en5: attachment: 10.68.5.2 unreachable
		warn probe PEER: probe verdict healthy>unhealthy because attachment: PEER`,
		"warn interface en5: interface unusable usable>attachment because 10.68.5.2 unreachable",
		"info source 10.68.6.1 of vipa on en5: preferred source off")...)
	e.expect("gateway back", func() {
		e.l.PassFrames("host", "en5")
		back()
	}, at(en5, `info peer PEER: peer up
		info probe PEER: probe verdict unhealthy>healthy because attachment`,
		"info interface en5: interface usable hold_up>usable",
		"info source 10.68.6.1 of vipa on en5: preferred source on")...)
	e.held("en5")
}

// held checks that the wait for the hold-up was told too, before the use.
func (e *told) held(name string) {
	e.t.Helper()
	if !slices.ContainsFunc(e.passed, func(words string) bool {
		return strings.HasPrefix(words, "info interface "+name+": interface still unusable ") && strings.Contains(words, ">hold_up because healthy again")
	}) {
		e.t.Errorf("%s waits for its hold-up, and no event says so: %q", name, e.passed)
	}
}

// probesAre is a condition for WaitStatus.
func probesAre(ifc, verdict string) func(*status.Status) error {
	return func(st *status.Status) error {
		for _, p := range flapInterface(st, ifc).Probes {
			if p.Verdict != verdict {
				return fmt.Errorf("probe %s is %s", p.Target, p.Verdict)
			}
		}
		return lab.That(len(flapInterface(st, ifc).Probes) > 0, "no probes")
	}
}

// scrape returns the daemon's metrics by series.
func scrape(t *testing.T, host *lab.Node) map[string]float64 {
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
	list := map[string]float64{}
	for s := bufio.NewScanner(r.Body); s.Scan(); {
		if i := strings.LastIndexByte(s.Text(), ' '); i > 0 && s.Text()[0] != '#' {
			if list[s.Text()[:i]], err = strconv.ParseFloat(s.Text()[i+1:], 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	return list
}
