package health

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// toldHTTP is a server of HTTP that says what it is told to.
type toldHTTP struct {
	url  string
	end  func() // of all, as if it were killed
	met  atomic.Int32
	open atomic.Int32
}

// tellHTTP serves with say, which is told the numbers of the connection and of the
// question on it, from 1, and whether it is to go on. It may be at an address of before.
func tellHTTP(t *testing.T, address string, secure *tls.Config, say func(c net.Conn, conn, question int) bool) *toldHTTP {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &toldHTTP{url: "http://" + l.Addr().String()}
	if secure != nil {
		s.url = "https://" + l.Addr().String()
		l = tls.NewListener(l, secure)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			n := int(s.met.Add(1))
			s.open.Add(1)
			served.Go(func() {
				defer s.open.Add(-1)
				defer func() { _ = c.Close() }()
				in := bufio.NewReader(c)
				for question := 1; ; question++ {
					if _, err := http.ReadRequest(in); err != nil || !say(c, n, question) {
						return
					}
				}
			})
		}
	})
	s.end = func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		served.Wait()
	}
	t.Cleanup(s.end)
	return s
}

// saying says the same to each question, and goes on.
func saying(answer string) func(net.Conn, int, int) bool {
	return func(c net.Conn, _, _ int) bool {
		_, err := io.WriteString(c, answer)
		return err == nil
	}
}

// testTLS is that of a server with a certificate that nobody knows.
func testTLS(t *testing.T) *tls.Config {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.StartTLS()
	defer s.Close()
	return &tls.Config{Certificates: s.TLS.Certificates}
}

func holdHTTP(tb testing.TB, at string, change func(*HTTPConfig)) Watcher {
	tb.Helper()
	u, err := url.Parse(at)
	if err != nil {
		tb.Fatal(err)
	}
	c := HTTPConfig{URL: u, Body: "well", Insecure: true, Hold: true}
	if change != nil {
		change(&c)
	}
	h, err := NewHTTP(c)
	if err != nil {
		tb.Fatal(err)
	}
	return h.(Watcher)
}

const (
	wellAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nall is well"
	badAnswer  = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nbad"
)

// What three runs bring, and whether they share a connection.
func TestHTTPHold(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	secure := testTLS(t)
	for _, tc := range []struct {
		name, answer, want string
		held               bool
	}{
		{"of a length", wellAnswer, "", true},
		{"bad", badAnswer, "status 503, want 200-399", true},
		{"without the text", ok + "Content-Length: 3\r\n\r\nbad", `body without "well", begins with "bad"`, true},
		{"chunked", ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n3\r\nbad\r\n0\r\nX: y\r\n\r\n", "", true},
		{"long", ok + "Content-Length: 300004\r\n\r\nwell" + strings.Repeat("x", 300000), "", true},
		{"interim answers", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 3) + wellAnswer, "", true},
		{"no body", "HTTP/1.1 204 No Content\r\n\r\n", `body without "well", begins with ""`, true},
		{"HTTP/1.0, kept", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nwell", "", true},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nwell", "", false},
		{"the last", ok + "Connection: close\r\nContent-Length: 4\r\n\r\nwell", "", false},
		{"larger than the bounds", ok + "Content-Length: 2000004\r\n\r\nwell" + strings.Repeat("x", 2000000), "", false},
		{"larger, without the text", ok + "Content-Length: 2000000\r\n\r\n" + strings.Repeat("x", 2000000), `body without "well", begins with "xxx…`, false},
		{"another behind it", wellAnswer + wellAnswer, "", false},
		{"garbage behind it", wellAnswer + "\x00", "", false},
		{"garbage", "SSH-2.0-OpenSSH\r\n", `malformed HTTP response "SSH-2.0-OpenSSH"`, false},
		{"the rest is held back", ok + "Content-Length: 99\r\n\r\nwell", "", false},
		{"the rest is broken", ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nwell\r\nno length\r\n", "", false},
		{"switch of protocols", "HTTP/1.1 101 Switching Protocols\r\n\r\n", "status 101, want 200-399", false},
	} {
		for kind, config := range map[string]*tls.Config{"http": nil, "https": secure} {
			t.Run(tc.name+"/"+kind, func(t *testing.T) {
				noGoroutines(t)
				noDescriptors(t)
				s := tellHTTP(t, "127.0.0.1:0", config, saying(tc.answer))
				c := holdHTTP(t, s.url, nil)
				calls, stop := watch(t, c)
				hear(t, calls, "the beginning")
				reason := tc.want
				if reason != "" {
					reason = s.url + ": " + reason
				}
				timeout := patient
				if tc.name == "the rest is held back" {
					timeout = 3 * time.Second // half of it is waited for the rest
				}
				for range 3 {
					want(t, c, timeout, reason)
				}
				quiet(t, calls, "nothing")
				met := int32(3)
				if tc.held {
					met = 1
				}
				if n := s.met.Load(); n != met {
					t.Errorf("%d connections for three runs, want %d", n, met)
				}
				stop()
				until(t, func() bool { return s.open.Load() == 0 }, func() string { return "the end of the connections" })
			})
		}
	}
}

// An answer without a length is as long as the connection.
func TestHTTPHoldUntilEnd(t *testing.T) {
	noGoroutines(t)
	s := tellHTTP(t, "127.0.0.1:0", nil, func(c net.Conn, _, _ int) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nall is well")
		return false
	})
	c := holdHTTP(t, s.url, nil)
	calls, _ := watch(t, c)
	hear(t, calls, "the beginning")
	for range 3 {
		want(t, c, patient, "")
	}
	if n := s.met.Load(); n != 3 {
		t.Errorf("%d connections for three runs, want 3", n)
	}
	head := holdHTTP(t, s.url, func(c *HTTPConfig) { c.Method, c.Body = http.MethodHead, "" })
	calls, _ = watch(t, head)
	hear(t, calls, "the beginning")
	want(t, head, patient, "")
}

// Nothing answers, or nobody listens.
func TestHTTPHoldConnection(t *testing.T) {
	noGoroutines(t)
	noDescriptors(t)
	refused, hang := closed(t).String(), deaf(t).String()
	for _, scheme := range []string{"http://", "https://"} {
		for range 2 {
			c := holdHTTP(t, scheme+refused, nil)
			want(t, c, patient, scheme+refused+": connection refused")
			c = holdHTTP(t, scheme+hang, nil)
			want(t, c, 100*time.Millisecond, scheme+hang+": timeout after 100ms")
		}
	}
	want(t, holdHTTP(t, "https://"+tellHTTP(t, "127.0.0.1:0", testTLS(t), saying(wellAnswer)).url[len("https://"):],
		func(c *HTTPConfig) { c.Insecure = false }), patient, "https://…")
}

// Each end of the connection is heard of, and followed by another as long as there is
// a server; a server that is gone fails.
func TestHTTPHoldEnds(t *testing.T) {
	for kind, config := range map[string]*tls.Config{"http": nil, "https": testTLS(t)} {
		t.Run(kind, func(t *testing.T) {
			noGoroutines(t)
			noDescriptors(t)
			conns := make(chan net.Conn, 10)
			say := func(c net.Conn, conn, question int) bool {
				if question == 1 {
					conns <- c
				}
				return saying(wellAnswer)(c, conn, question)
			}
			s := tellHTTP(t, here(), config, say)
			c := holdHTTP(t, s.url, nil)
			want(t, c, patient, "") // nobody watches: not held
			until(t, func() bool { return s.open.Load() == 0 }, func() string { return "the end of the connection" })
			<-conns
			calls, stop := watch(t, c)
			hear(t, calls, "the beginning")
			want(t, c, patient, "")
			_ = (<-conns).Close()
			hear(t, calls, "the end")
			want(t, c, patient, "")
			conn := <-conns
			if secure, ok := conn.(*tls.Conn); ok {
				conn = secure.NetConn()
			}
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
			hear(t, calls, "the reset")
			want(t, c, patient, "")
			quiet(t, calls, "nothing")
			stop()
			until(t, func() bool { return s.open.Load() == 0 }, func() string { return "the end of the held connection" })

			calls, _ = watch(t, c)
			hear(t, calls, "the beginning")
			want(t, c, patient, "")
			start := time.Now()
			s.end()
			t.Logf("heard %s after the end", hear(t, calls, "the end of the server").Sub(start))
			want(t, c, patient, s.url+": connection refused")
			want(t, c, patient, s.url+": connection refused")
		})
	}
}

// A run that meets the end of its connection before anybody else, between answers or
// in one, asks on another, whose answer counts.
func TestHTTPHoldRunMeetsEnd(t *testing.T) {
	for name, cut := range map[string]string{
		"before":         "",
		"in the header":  "HTTP/1.1 200 OK\r\nContent-",
		"in the text":    "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nall is",
		"after the text": "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nall is well",
	} {
		for kind, config := range map[string]*tls.Config{"http": nil, "https": testTLS(t)} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				noGoroutines(t)
				noDescriptors(t)
				s := tellHTTP(t, "127.0.0.1:0", config, func(c net.Conn, conn, question int) bool {
					switch {
					case question == 1 && conn == 1:
						return saying(wellAnswer)(c, conn, question)
					case conn == 1:
						_, _ = io.WriteString(c, cut)
						return false
					}
					return saying(badAnswer)(c, conn, question)
				})
				h := holdHTTP(t, s.url, nil).(*heldHTTP)
				h.watching = true // by nobody
				want(t, h, patient, "")
				for range 2 {
					want(t, h, patient, s.url+": status 503, want 200-399")
				}
				if n := s.met.Load(); n != 2 {
					t.Errorf("%d connections, want 2", n)
				}
				line, _ := h.held()
				h.drop(line)
			})
		}
	}
}

// What a server says late, or unasked, is no answer to the next question.
func TestHTTPHoldLate(t *testing.T) {
	for kind, config := range map[string]*tls.Config{"http": nil, "https": testTLS(t)} {
		t.Run(kind, func(t *testing.T) {
			noGoroutines(t)
			noDescriptors(t)
			more := make(chan string)
			s := tellHTTP(t, "127.0.0.1:0", config, func(c net.Conn, conn, question int) bool {
				switch {
				case question > 1: // of the first two connections: too late
					return saying(<-more)(c, conn, question)
				case conn > 2:
					return saying(badAnswer)(c, conn, question)
				case !saying(wellAnswer)(c, conn, question):
					return false
				case conn == 2:
					return saying(<-more)(c, conn, question)
				}
				return true
			})
			h := holdHTTP(t, s.url, nil).(*heldHTTP)
			h.watching = true // by nobody
			want(t, h, 5*patient, "")
			// Long enough that it is asked, whatever the machine does.
			want(t, h, 2*time.Second, s.url+": timeout after 2s")
			more <- wellAnswer
			want(t, h, 5*patient, "")
			line, ok := h.held()
			if !ok {
				t.Fatal("the second connection is not held")
			}
			more <- wellAnswer
			said := []unix.PollFd{{Fd: int32(line.conn.wire.fd), Events: unix.POLLIN}}
			n, err := unix.Poll(said, int(patient.Milliseconds()))
			for errors.Is(err, unix.EINTR) {
				n, err = unix.Poll(said, int(patient.Milliseconds()))
			}
			if n != 1 || err != nil {
				t.Fatalf("what the server says unasked: %d, %v", n, err)
			}
			want(t, h, 5*patient, s.url+": status 503, want 200-399")
			if n := s.met.Load(); n != 3 {
				t.Errorf("%d connections, want 3", n)
			}
			line, _ = h.held()
			h.drop(line)
		})
	}
}

// A server that answers after a while is asked on one connection.
func TestHTTPHoldSlow(t *testing.T) {
	for kind, config := range map[string]*tls.Config{"http": nil, "https": testTLS(t)} {
		t.Run(kind, func(t *testing.T) {
			noGoroutines(t)
			noDescriptors(t)
			s := tellHTTP(t, "127.0.0.1:0", config, func(c net.Conn, conn, question int) bool {
				header, body, _ := strings.Cut(wellAnswer, "all")
				for _, part := range []string{header, "all", body} {
					<-time.After(5 * time.Millisecond)
					if !saying(part)(c, conn, question) {
						return false
					}
				}
				return true
			})
			c := holdHTTP(t, s.url, nil)
			calls, _ := watch(t, c)
			hear(t, calls, "the beginning")
			for range 10 {
				want(t, c, 5*patient, "")
			}
			if n := s.met.Load(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
}

// A server that closes connections that are idle, or of some answers, is healthy in
// all runs, and no connection is left behind.
func TestHTTPHoldRotation(t *testing.T) {
	noGoroutines(t)
	noDescriptors(t)
	s := tellHTTP(t, "127.0.0.1:0", nil, func(c net.Conn, conn, question int) bool {
		if question == 3 { // the end of some is announced, that of others comes
			if conn%2 == 0 {
				return false
			}
			_, _ = io.WriteString(c, strings.Replace(wellAnswer, "\r\n", "\r\nConnection: close\r\n", 1))
			return false
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Duration(conn) * 10 * time.Millisecond))
		return saying(wellAnswer)(c, conn, question)
	})
	k := &keepsHealthy{Watcher: holdHTTP(t, s.url, nil)}
	web := spec("web", k)
	web.Interval, web.Timeout, web.Rise, web.Fall = 20*time.Millisecond, patient, 1, 1
	k.stays(t, web, &s.met, &s.open)
}

// What is heard changes the verdict without the schedule, and the end of the manager
// leaves nothing.
func TestHTTPHoldVerdict(t *testing.T) {
	noGoroutines(t)
	noDescriptors(t)
	s := tellHTTP(t, here(), nil, saying(wellAnswer))
	web := spec("web", holdHTTP(t, s.url, nil))
	web.Interval, web.Timeout, web.Rise, web.Fall = time.Hour, patient, 1, 1
	m := New(Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	m.Set([]Spec{web})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	until(t, func() bool { return m.Results()["web"].Verdict == Healthy }, func() string { return "healthy" })
	s.end()
	until(t, func() bool { return m.Results()["web"].Verdict == Unhealthy }, func() string { return "unhealthy" })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A server that hangs is seen by the next run, again with each that follows, and
// passes when it goes on.
func TestHTTPHoldHangs(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		noGoroutines(t)
		ns.IP("link set lo up")
		pid := startServer(t)
		for _, at := range []string{"http://127.0.0.1" + httpPort + "/", "https://127.0.0.1" + httpsPort + "/"} {
			c := holdHTTP(t, at, nil)
			calls, stop := watch(t, c)
			hear(t, calls, "the beginning")
			want(t, c, 5*patient, "")
			quiet(t, calls, "nothing")
			halt(t, pid)
			for range 3 {
				want(t, c, 100*time.Millisecond, at+": timeout after …")
			}
			quiet(t, calls, "what a run has seen")
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			want(t, c, 5*patient, "")
			quiet(t, calls, "nothing")
			stop()
		}
	})
}
