package health

import (
	"context"
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
	"sync"
	"syscall"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// benchServer is set for the process of this binary that is what checks ask.
const benchServer = "VIPSPEAKER_BENCH_SERVER"

// TestMain runs the binary as that server if it is to be.
func TestMain(m *testing.M) {
	if os.Getenv(benchServer) == "" {
		os.Exit(m.Run())
	}
	if err := serveChecks(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serveChecks answers on ports 7001 (TCP) and 7002 (HTTP) until stdin ends.
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
	go func() {
		for {
			conn, acceptErr := plain.Accept()
			if acceptErr != nil {
				return
			}
			_ = conn.Close()
		}
	}()
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

// BenchmarkChecks runs 1,000 checks of one second, each of an address of its own
// on the loopback interface: the share of one CPU that they take, and how late
// they start.
func BenchmarkChecks(b *testing.B) {
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
	}
	m.Set(specs)
	ctx, cancel := context.WithTimeout(b.Context(), warm+measured)
	defer cancel()
	used := make(chan time.Duration)
	from := time.Now().Add(warm)
	go func() {
		<-time.After(warm)
		before := cpu()
		<-ctx.Done()
		used <- cpu() - before
	}()
	if err := m.Run(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(100*float64(<-used)/float64(measured), "cpu-%core")
	for id, r := range m.Results() {
		if r.Verdict != Healthy || r.Downs > 0 {
			b.Fatalf("%s = %+v", id, r)
		}
	}
	reportLateness(b, m, specs, runs, from)
}

// reportLateness compares the starts with the points of the grid. The drift is by
// how much the last runs are later than the first measured ones.
func reportLateness(b *testing.B, m *Manager, specs []Spec, runs []*timed, from time.Time) {
	b.Helper()
	var late []time.Duration
	var drift time.Duration
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
	b.ReportMetric(ms(late[len(late)*99/100]), "late-p99-ms")
	b.ReportMetric(ms(drift/time.Duration(len(runs))), "drift-ms")
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
