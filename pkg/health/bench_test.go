package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"vipspeaker/test/netnstest"
)

// benchServer is set for the process of this binary that is what checks ask,
// execScript for one that runs an exec check with that script.
const (
	benchServer = "VIPSPEAKER_BENCH_SERVER"
	execScript  = "VIPSPEAKER_EXEC_SCRIPT"
)

// TestMain runs the binary as one of these if it is to be.
func TestMain(m *testing.M) {
	if script := os.Getenv(execScript); script != "" {
		c, err := NewExec(ExecConfig{Command: []string{"/bin/sh", "-c", script}})
		if err == nil {
			err = c.Check(context.Background())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv(benchServer) == "" {
		os.Exit(m.Run())
	}
	if err := serveChecks(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serveChecks answers on ports 7001 (TCP), 7002 (HTTP), 7004 (DNS) and 7005 (TCP,
// which stays) until stdin ends.
func serveChecks() error {
	ctx := context.Background()
	plain, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "0.0.0.0:7001")
	if err != nil {
		return err
	}
	web, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "0.0.0.0:7002")
	if err != nil {
		return err
	}
	stays, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "0.0.0.0:7005")
	if err != nil {
		return err
	}
	var kept []net.Conn
	go acceptAll(plain, func(conn net.Conn) { _ = conn.Close() })
	go acceptAll(stays, func(conn net.Conn) { kept = append(kept, conn) })
	names := &dns.Server{Addr: "0.0.0.0:7004", Net: "udp4", Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetReply(q)
		answer.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 1),
		}}
		_ = w.WriteMsg(answer)
	})}
	bound := make(chan struct{})
	names.NotifyStartedFunc = func() { close(bound) }
	go func() { _ = names.ListenAndServe() }()
	select {
	case <-bound:
	case <-time.After(10 * time.Second):
		return errors.New("the DNS server does not start")
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "all is well\n")
	})}
	go func() { _ = server.Serve(web) }()
	if _, err = io.WriteString(os.Stdout, "ready\n"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func acceptAll(l net.Listener, do func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		do(conn)
	}
}

// startServer starts serveChecks as a process of its own, so that the time it
// uses is not taken for that of the checks; it ends with b.
func startServer(b *testing.B) {
	b.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(b.Context()), "/proc/self/exe")
	cmd.Env = append(os.Environ(), benchServer+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		if failed := cmd.Wait(); failed != nil {
			b.Error(failed)
		}
	})
	if _, err = io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		b.Fatal(err)
	}
}

// What a thousand checks a second may take, in percent of one core, and how late
// they may be. A machine on which others use more than quietShare of a core makes
// both longer, by as much as it likes: there the figures are told and not judged.
const (
	checksShare = 10
	checksLate  = 100 * time.Millisecond
	checksDrift = 10 * time.Millisecond
	quietShare  = 0.5
)

// BenchmarkChecks runs 1,000 checks of one second, each of an address of its own
// on the loopback interface: the share of one CPU that they take, and how late
// they start.
func BenchmarkChecks(b *testing.B) {
	sockets := NewSockets()
	for _, tc := range []struct {
		name string
		make func(host string) (Checker, error)
	}{
		{"noop", func(string) (Checker, error) { return checkerFunc(func(context.Context) error { return nil }), nil }},
		{"tcp", func(host string) (Checker, error) {
			return NewTCP(TCPConfig{Address: netip.MustParseAddrPort(host + ":7001")})
		}},
		{"http", func(host string) (Checker, error) {
			return NewHTTP(HTTPConfig{URL: &url.URL{Scheme: "http", Host: host + ":7002", Path: "/healthz"}, Body: "well"})
		}},
		{"dns", func(host string) (Checker, error) {
			return NewDNS(DNSConfig{Server: netip.MustParseAddrPort(host + ":7004"), Query: "web.test", Type: "A", Expect: []string{"192.0.2.1"}})
		}},
		{"hold", func(host string) (Checker, error) {
			return NewTCP(TCPConfig{Address: netip.MustParseAddrPort(host + ":7005"), Hold: true})
		}},
		{"listen", func(host string) (Checker, error) {
			return sockets.NewListen(ListenConfig{Address: netip.MustParseAddr(host), Port: 7005, Protocol: "tcp"})
		}},
		{"refused", func(host string) (Checker, error) {
			c, err := NewTCP(TCPConfig{Address: netip.MustParseAddrPort(host + ":7003")})
			return checkerFunc(func(ctx context.Context) error {
				if c.Check(ctx) == nil {
					return errDown
				}
				return nil
			}), err
		}},
	} {
		b.Run(tc.name, func(b *testing.B) {
			netnstest.Bench(b, func(b *testing.B, ns netnstest.NS) {
				ns.IP("link set lo up")
				startServer(b)
				for b.Loop() {
					benchChecks(b, tc.make)
				}
				b.ReportMetric(0, "ns/op")
			})
		})
	}
}

// timed notes when its runs start.
type timed struct {
	Checker
	mu     sync.Mutex
	starts []time.Time
}

func (c *timed) Check(ctx context.Context) error {
	c.mu.Lock()
	c.starts = append(c.starts, time.Now())
	c.mu.Unlock()
	return c.Checker.Check(ctx)
}

// timedWatcher is timed for a Watcher.
type timedWatcher struct {
	*timed
	watch func(ctx context.Context, again func())
}

func (c *timedWatcher) Watch(ctx context.Context, again func()) { c.watch(ctx, again) }

func benchChecks(b *testing.B, newChecker func(host string) (Checker, error)) {
	const checks, warm, measured = 1000, 2 * time.Second, 5 * time.Second
	m := New(Options{Log: slog.New(slog.DiscardHandler)})
	specs := make([]Spec, checks)
	runs := make([]*timed, checks)
	for i := range specs {
		c, err := newChecker(fmt.Sprintf("127.0.%d.%d", 1+i/200, 1+i%200))
		if err != nil {
			b.Fatal(err)
		}
		runs[i] = &timed{Checker: c, starts: make([]time.Time, 0, 16)}
		specs[i] = spec(fmt.Sprintf("vip%d/web", i), runs[i])
		specs[i].Rise = 1
		if w, ok := c.(Watcher); ok {
			specs[i].Checker = &timedWatcher{runs[i], w.Watch}
		}
	}
	m.Set(specs)
	ctx, cancel := context.WithTimeout(b.Context(), warm+measured)
	defer cancel()
	used := make(chan usage)
	from := time.Now().Add(warm)
	go func() {
		<-time.After(warm)
		before := usageNow()
		<-ctx.Done()
		now := usageNow()
		used <- usage{own: now.own - before.own, all: now.all - before.all}
	}()
	if err := m.Run(ctx); err != nil {
		b.Fatal(err)
	}
	u := <-used
	share, others := 100*u.own.Seconds()/measured.Seconds(), (u.all-u.own).Seconds()/measured.Seconds()
	b.ReportMetric(share, "cpu-%core")
	b.ReportMetric(100*others, "others-%core")
	quiet := others < quietShare
	if quiet && share > checksShare {
		b.Errorf("%d checks a second take %.1f %% of a core, want %d %% at most", checks, share, checksShare)
	}
	for id, r := range m.Results() {
		if r.Verdict != Healthy || r.Downs > 0 {
			b.Fatalf("%s = %+v", id, r)
		}
	}
	p99, drift := reportLateness(b, m, specs, runs, from)
	if quiet && (p99 > checksLate || drift.Abs() > checksDrift) {
		b.Errorf("%v late at p99, want %v at most; drift %v, want %v at most", p99, checksLate, drift, checksDrift)
	}
	if !quiet {
		b.Logf("not judged: others used %.1f cores", others)
	}
}

// reportLateness compares the starts with the points of the grid. The drift is by
// how much the last runs are later than the first measured ones.
func reportLateness(b *testing.B, m *Manager, specs []Spec, runs []*timed, from time.Time) (p99, drift time.Duration) {
	b.Helper()
	var late []time.Duration
	for i := range runs {
		point := m.pointAfter(&specs[i], from)
		starts := slices.DeleteFunc(runs[i].starts, func(t time.Time) bool { return t.Before(point) })
		for n, start := range starts {
			late = append(late, start.Sub(point.Add(time.Duration(n)*specs[i].Interval)))
		}
		drift += late[len(late)-1] - late[len(late)-len(starts)]
	}
	slices.Sort(late)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
	b.ReportMetric(ms(late[len(late)/2]), "late-p50-ms")
	p99, drift = late[len(late)*99/100], drift/time.Duration(len(runs))
	b.ReportMetric(ms(p99), "late-p99-ms")
	b.ReportMetric(ms(drift), "drift-ms")
	return p99, drift
}

// usage is processor time: this process's, and that of all of the machine.
type usage struct{ own, all time.Duration }

// usageNow reads what the machine has done from /proc/stat (proc_stat(5)): user,
// nice, system, then idle and iowait, which are none, then irq, softirq and steal.
func usageNow() usage {
	u := usage{own: cpu()}
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		panic(err)
	}
	fields := strings.Fields(string(data))
	for _, at := range []int{1, 2, 3, 6, 7, 8} {
		ticks, err := strconv.ParseInt(fields[at], 10, 64)
		if err != nil {
			panic(err)
		}
		u.all += time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on all that Go runs on
	}
	return u
}

// cpu is the time that this process has used, the kernel's on its behalf included.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWatch measures from an event to the Poke that tells of the verdict.
func BenchmarkWatch(b *testing.B) {
	poked := make(chan struct{}, 1)
	m := New(Options{Log: slog.New(slog.DiscardHandler), Poke: func() { poked <- struct{}{} }})
	ready := make(chan func(), 1)
	down := false
	web := spec("web", &watched{func(context.Context) error {
		if down = !down; down {
			return errDown
		}
		return nil
	}, func(ctx context.Context, again func()) {
		ready <- again
		<-ctx.Done()
	}})
	web.Interval, web.Rise, web.Fall = time.Hour, 1, 1
	m.Set([]Spec{web})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	again := <-ready
	<-poked
	var took []time.Duration
	for b.Loop() {
		<-time.After(2 * extraInterval)
		start := time.Now()
		again()
		<-poked
		took = append(took, time.Since(start))
	}
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
