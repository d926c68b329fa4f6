package health

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// What a thousand checks a second may take, in percent of one core, and how late
// they may be. The share is that of a core on which the bare system calls of a
// connection by TCP, within the host, take usualConnect: on a slower one it is as many
// times more, for most of what checks take is the kernel's. A machine on which others
// use more than quietShare of a core makes both longer, by as much as it likes: there
// the figures are told and not judged.
const (
	checksShare  = 10
	usualConnect = 20 * time.Microsecond
	checksLate   = 100 * time.Millisecond
	checksDrift  = 10 * time.Millisecond
	quietShare   = 0.1
)

// BenchmarkChecks runs 1,000 checks of one second (200 with TLS), each of an address of its own
// on the loopback interface: the share of one CPU that they take, and how late
// they start.
func BenchmarkChecks(b *testing.B) {
	sockets := NewSockets()
	query, err := new(dns.Msg).SetQuestion("web.test.", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	const get = "GET /healthz HTTP/1.1\r\nHost: bare\r\n"
	bares := map[string]*bare{
		"tcp":       {kind: unix.SOCK_STREAM, port: tcpPort},
		"refused":   {kind: unix.SOCK_STREAM, port: refusePort, refused: true},
		"http":      {kind: unix.SOCK_STREAM, port: httpPort, ask: []byte(get + "Connection: close\r\n\r\n")},
		"http-hold": {kind: unix.SOCK_STREAM, port: httpPort, ask: []byte(get + "\r\n"), kept: true},
		"dns":       {kind: unix.SOCK_DGRAM, port: dnsPort, ask: query},
		"dns-tcp":   {kind: unix.SOCK_STREAM, port: dnsPort, ask: append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)},
	}
	for _, tc := range []struct {
		name string
		make func(host string) (Checker, error)
		free bool // it may take what it takes: the library's client of gRPC, a handshake of TLS, a wait, or the start of a program
	}{
		{"noop", func(string) (Checker, error) { return checkerFunc(func(context.Context) error { return nil }), nil }, false},
		{"tcp", func(host string) (Checker, error) {
			return NewTCP(TCPConfig{Address: netip.MustParseAddrPort(host + tcpPort)})
		}, false},
		{"http", func(host string) (Checker, error) {
			return NewHTTP(HTTPConfig{URL: &url.URL{Scheme: "http", Host: host + httpPort, Path: "/healthz"}, Body: "well"})
		}, false},
		{"http-hold", func(host string) (Checker, error) {
			return NewHTTP(HTTPConfig{URL: &url.URL{Scheme: "http", Host: host + httpPort, Path: "/healthz"}, Body: "well", Hold: true})
		}, false},
		{"https-hold", func(host string) (Checker, error) {
			return NewHTTP(HTTPConfig{URL: &url.URL{Scheme: "https", Host: host + httpsPort, Path: "/healthz"}, Body: "well", Insecure: true, Hold: true})
		}, true},
		{"http-slow", func(host string) (Checker, error) {
			return NewHTTP(HTTPConfig{URL: &url.URL{Scheme: "http", Host: host + httpPort, Path: "/slow"}, Body: "well"})
		}, true},
		{"https", func(host string) (Checker, error) {
			return NewHTTP(HTTPConfig{URL: &url.URL{Scheme: "https", Host: host + httpsPort, Path: "/healthz"}, Body: "well", Insecure: true})
		}, true},
		{"dns", func(host string) (Checker, error) {
			return NewDNS(DNSConfig{Server: netip.MustParseAddrPort(host + dnsPort), Query: "web.test", Type: "A", Expect: []string{"192.0.2.1"}})
		}, false},
		{"dns-tcp", func(host string) (Checker, error) {
			return NewDNS(DNSConfig{Server: netip.MustParseAddrPort(host + dnsPort), Query: "web.test", Type: "A", Transport: "tcp"})
		}, false},
		{"grpc", func(host string) (Checker, error) {
			return NewGRPC(GRPCConfig{Address: netip.MustParseAddrPort(host + grpcPort)})
		}, true},
		{"grpc-tls", func(host string) (Checker, error) {
			return NewGRPC(GRPCConfig{Address: netip.MustParseAddrPort(host + grpcsPort), TLS: true, Insecure: true})
		}, true},
		{"grpc-hold", func(host string) (Checker, error) {
			return NewGRPC(GRPCConfig{Address: netip.MustParseAddrPort(host + grpcPort), Hold: true})
		}, true},
		{"grpc-hold-tls", func(host string) (Checker, error) {
			return NewGRPC(GRPCConfig{Address: netip.MustParseAddrPort(host + grpcsPort), TLS: true, Insecure: true, Hold: true})
		}, true},
		{"icmp", func(host string) (Checker, error) { return NewICMP(ICMPConfig{Address: netip.MustParseAddr(host)}) }, false},
		{"hold", func(host string) (Checker, error) {
			return NewTCP(TCPConfig{Address: netip.MustParseAddrPort(host + stayPort), Hold: true})
		}, false},
		{"listen", func(host string) (Checker, error) {
			return sockets.NewListen(ListenConfig{Address: netip.MustParseAddr(host), Port: 7005, Protocol: "tcp"})
		}, false},
		{"exec", func(string) (Checker, error) { return NewExec(ExecConfig{Command: []string{"/bin/true"}}) }, true},
		{"refused", func(host string) (Checker, error) {
			c, err := NewTCP(TCPConfig{Address: netip.MustParseAddrPort(host + refusePort)})
			return checkerFunc(func(ctx context.Context) error {
				if c.Check(ctx) == nil {
					return errDown
				}
				return nil
			}), err
		}, false},
	} {
		checks := 1000
		if strings.HasPrefix(tc.name, "https") || strings.HasSuffix(tc.name, "-tls") {
			checks = 200 // two slow cores cannot do a thousand handshakes in a second
		}
		b.Run(fmt.Sprintf("%s/checks=%d", tc.name, checks), func(b *testing.B) {
			netnstest.Bench(b, func(b *testing.B, ns netnstest.NS) {
				ns.IP("link set lo up")
				server := startServer(b)
				for b.Loop() {
					benchChecks(b, server, checks, tc.make, bares[tc.name], bares["tcp"], tc.free)
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

func benchChecks(b *testing.B, server, checks int, newChecker func(host string) (Checker, error), least, connect *bare, free bool) {
	const warm, measured = 2 * time.Second, 5 * time.Second
	m := New(Options{Log: slog.New(slog.DiscardHandler)})
	specs := make([]Spec, checks)
	runs := make([]*timed, checks)
	for i := range specs {
		c, err := newChecker(benchHost(i).String())
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
		before := usageNow(server)
		<-ctx.Done()
		used <- usageNow(server).since(before)
	}()
	if err := m.Run(ctx); err != nil {
		b.Fatal(err)
	}
	u := <-used
	share, others := 100*u.own.Seconds()/measured.Seconds(), (u.all-u.own-u.programs-u.server).Seconds()/measured.Seconds()
	b.ReportMetric(share, "cpu-%core")
	b.ReportMetric(100*u.programs.Seconds()/measured.Seconds(), "programs-%core")
	b.ReportMetric(100*others, "others-%core")
	count := checks * int(measured/time.Second)
	if least != nil {
		b.ReportMetric(100*least.take(b, checks, count).Seconds()/measured.Seconds(), "bare-%core")
	}
	slow := max(1, connect.take(b, checks, count).Seconds()/(float64(count)*usualConnect.Seconds()))
	b.ReportMetric(slow, "slow")
	most := checksShare * slow
	quiet := others < quietShare
	if quiet && !free && share > most {
		b.Errorf("%d checks a second take %.1f %% of a core, want %.1f %% at most", checks, share, most)
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

// benchHost is the address of the check with that number.
func benchHost(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 0, byte(1 + i/200), byte(1 + i%200)})
}

// bare is what a run cannot do without: socket, connect, write, read and close.
type bare struct {
	kind    int // SOCK_STREAM or SOCK_DGRAM
	port    string
	ask     []byte // nothing is written and read without
	kept    bool   // all is asked on one connection
	refused bool   // none is made
}

// take returns the processor time of so many runs, in one plain loop over the hosts.
func (r *bare) take(b *testing.B, hosts, runs int) time.Duration {
	b.Helper()
	port, err := strconv.Atoi(r.port[1:])
	if err != nil {
		b.Fatal(err)
	}
	answer, fd := make([]byte, 4<<10), -1
	before := cpu(syscall.RUSAGE_SELF)
	for i := range runs {
		if i == 0 || !r.kept {
			if fd, err = unix.Socket(unix.AF_INET, r.kind|unix.SOCK_CLOEXEC, 0); err != nil {
				b.Fatal(err)
			}
			err = unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: benchHost(i % hosts).As4()})
			if refused := errors.Is(err, unix.ECONNREFUSED); refused != r.refused || err != nil && !refused {
				b.Fatalf("bare connection: %v", err)
			}
		}
		if r.ask != nil {
			if _, err = unix.Write(fd, r.ask); err != nil {
				b.Fatal(err)
			}
			if n, err := unix.Read(fd, answer); n <= 0 {
				b.Fatalf("bare answer: %d bytes, %v", n, err)
			}
		}
		if !r.kept || i == runs-1 {
			_ = unix.Close(fd)
		}
	}
	return cpu(syscall.RUSAGE_SELF) - before
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

// usage is processor time: this process's, that of the programs it has run, that
// of what checks ask, and that of all of the machine.
type usage struct{ own, programs, server, all time.Duration }

func (u usage) since(before usage) usage {
	return usage{u.own - before.own, u.programs - before.programs, u.server - before.server, u.all - before.all}
}

// usageNow reads what the machine has done from /proc/stat (proc_stat(5)): user,
// nice, system, then idle and iowait, which are none, then irq, softirq and steal;
// and what a process has from its own (proc_pid_stat(5)): utime and stime.
func usageNow(server int) usage {
	return usage{
		own: cpu(syscall.RUSAGE_SELF), programs: cpu(syscall.RUSAGE_CHILDREN),
		server: ticks(fmt.Sprintf("/proc/%d/stat", server), 13, 14),
		all:    ticks("/proc/stat", 1, 2, 3, 6, 7, 8),
	}
}

// ticks is the sum of times in the first line of a file, whose names have no spaces.
func ticks(file string, fields ...int) (sum time.Duration) {
	data, err := os.ReadFile(file)
	if err != nil {
		panic(err)
	}
	words := strings.Fields(string(data))
	for _, at := range fields {
		n, err := strconv.ParseInt(words[at], 10, 64)
		if err != nil {
			panic(err)
		}
		sum += time.Duration(n) * 10 * time.Millisecond // USER_HZ is 100 on all that Go runs on
	}
	return sum
}

// cpu is the time that processes have used, the kernel's on their behalf included.
func cpu(whose int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(whose, &u); err != nil {
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
