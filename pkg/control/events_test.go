package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
)

const (
	// soon is when what comes at once must have come; only a failure uses it up.
	soon = 20 * time.Second
	// shortAnswer is a bound for answers that are short.
	shortAnswer = 500 * time.Millisecond
)

func event(i int) status.Event {
	return status.Event{Level: status.LevelInfo, Kind: "vip", Subject: fmt.Sprint("vip", i), Message: "vip announced"}
}

// eventServer serves events with bounds of its own, and counts the answers that
// are being given.
type eventServer struct {
	events *status.Events
	dial   func() (net.Conn, error)
	client func() *Client
	end    func() // of the life that the answers have, not of the server
	active atomic.Int64
}

func serveEvents(t *testing.T, events *status.Events, patience time.Duration) *eventServer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s := serveEventsOn(t, l, events, patience, func(*http.Server) {})
	s.dial = func() (net.Conn, error) { return net.Dial("unix", path) }
	s.client = func() *Client { return newClient(t, path) }
	return s
}

func serveEventsOn(t *testing.T, l net.Listener, events *status.Events, patience time.Duration, change func(*http.Server)) *eventServer {
	t.Helper()
	s := &eventServer{events: events}
	ctx, cancel := context.WithCancel(t.Context())
	life, end := context.WithCancel(ctx)
	s.end = end
	handler := eventsHandler(life, events, patience)
	srv := status.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.active.Add(1)
		defer s.active.Add(-1)
		handler(w, r)
	}), slog.New(slog.DiscardHandler))
	change(srv)
	done := make(chan error, 1)
	go func() { done <- status.Serve(ctx, srv, l) }()
	t.Cleanup(func() {
		end()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// pipes is a listener in memory, for bubbles: no time passes in there but that which is
// waited for.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr implements net.Listener.
func (*pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

// serveEventsInMemory serves in a bubble, with short bounds for the answers of the server.
func serveEventsInMemory(t *testing.T, events *status.Events, patience time.Duration) *eventServer {
	t.Helper()
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	s := serveEventsOn(t, p, events, patience, func(srv *http.Server) { srv.ReadTimeout, srv.WriteTimeout = shortAnswer, shortAnswer })
	s.dial = func() (net.Conn, error) {
		near, far := net.Pipe()
		p.conns <- far
		return near, nil
	}
	s.client = func() *Client {
		c := newClient(t, "pipes")
		c.http.Transport = &http.Transport{
			DialContext:           func(context.Context, string, string) (net.Conn, error) { return s.dial() },
			ResponseHeaderTimeout: shortAnswer,
		}
		return c
	}
	return s
}

// answering waits until that many answers are being given.
func (s *eventServer) answering(t *testing.T, want int64) {
	t.Helper()
	netnstest.Until(t, soon, func() error {
		if n := s.active.Load(); n != want {
			return fmt.Errorf("%d answers are being given, want %d", n, want)
		}
		return nil
	})
}

// open asks for events, reads the header of the answer and nothing more.
func (s *eventServer) open(t *testing.T, query string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err = io.WriteString(c, "GET /v1/events?"+query+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	for line := ""; line != "\r\n"; {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return c, r
}

func TestEvents(t *testing.T) {
	d := &daemon{store: status.NewStore(), events: status.NewEvents(3)}
	c := newClient(t, start(t, d))
	read := func(since uint64) (list []uint64) {
		t.Helper()
		if err := c.Events(t.Context(), since, false, func(e status.Event) error {
			list = append(list, e.Seq)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return list
	}
	if got := read(0); got != nil {
		t.Errorf("before the first: %v", got)
	}
	want := status.Event{
		Time: time.Date(2026, 8, 1, 12, 0, 0, 1, time.UTC), Level: status.LevelWarn, Kind: "peer", Subject: "10.68.1.2", Interface: "en1",
		Message: "peer down", From: "Established", To: "Idle", Cause: "Cease: <\x1b[2J>",
	}
	want = d.events.Add(want)
	var got []status.Event
	if err := c.Events(t.Context(), 0, false, func(e status.Event) error {
		got = append(got, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]status.Event{want}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i := range 4 {
		d.events.Add(event(i))
	}
	for since, want := range map[uint64][]uint64{0: {3, 4, 5}, 2: {3, 4, 5}, 4: {5}, 5: nil} {
		if diff := cmp.Diff(want, read(since)); diff != "" {
			t.Errorf("since %d (-want +got):\n%s", since, diff)
		}
	}
	enough := errors.New("enough")
	if err := c.Events(t.Context(), 0, true, func(status.Event) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("the reader's own error became %v", err)
	}
}

func TestEventsBadParameters(t *testing.T) {
	d := &daemon{store: status.NewStore(), events: status.NewEvents(3)}
	d.events.Add(event(1))
	client := newClient(t, start(t, d)).http
	for query, want := range map[string]string{
		"since=x":                    `since: \"x\": want the number of an event, 0 or above`,
		"since=-1":                   `since: \"-1\": want the number of an event, 0 or above`,
		"since=":                     `since: \"\": want the number of an event, 0 or above`,
		"since=18446744073709551616": `since: \"18446744073709551616\": want the number of an event, 0 or above`,
		"since=2":                    `since: 2: the last event is 1; has the daemon been started again?`,
		"since=1&since=1":            `parameter \"since\": given more than once`,
		"follow=yes":                 `follow: \"yes\": want 1 or 0`,
		"folow=1":                    `parameter \"folow\": not known; there are since and follow`,
		"since=%zz":                  `the query cannot be read: invalid URL escape \"%zz\"`,
	} {
		res, err := client.Get("http://x/v1/events?" + query)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err = res.Body.Close(); err != nil {
			t.Error(err)
		}
		if res.StatusCode != http.StatusBadRequest || strings.TrimSpace(string(body)) != `{"error":"`+want+`"}` {
			t.Errorf("%s: %d %s, want 400 %s", query, res.StatusCode, body, want)
		}
	}
	without := newClient(t, start(t, &daemon{store: status.NewStore()}))
	err := without.Events(t.Context(), 0, true, func(status.Event) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "GET /v1/events: Not Found; is it meant for a vipspeaker of this version?") {
		t.Errorf("without events: %v", err)
	}
	err = newClient(t, start(t, d)).Events(t.Context(), 7, true, func(status.Event) error { return nil })
	if err == nil || err.Error() != "since: 7: the last event is 1; has the daemon been started again?" {
		t.Errorf("the client says %v", err)
	}
}

// TestEventsFollow: events come as they happen, up to the last one before the
// end, and a reader that leaves is forgotten.
func TestEventsFollow(t *testing.T) {
	s := serveEvents(t, status.NewEvents(10), soon)
	s.events.Add(event(1))
	seen := make(chan uint64, 10)
	follow := func(ctx context.Context) chan error {
		c := s.client()
		done := make(chan error, 1)
		go func() {
			done <- c.Events(ctx, 0, true, func(e status.Event) error {
				seen <- e.Seq
				return nil
			})
		}()
		return done
	}
	next := func(want uint64) {
		t.Helper()
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("event %d, want %d", got, want)
			}
		case <-time.After(soon):
			t.Fatalf("no event %d", want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := follow(ctx)
	next(1)
	for i := range 3 {
		s.events.Add(event(i))
		next(uint64(i + 2))
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("after the order to stop: %v", err)
	}
	s.answering(t, 0)

	done = follow(t.Context())
	for i := range 4 {
		next(uint64(i + 1))
	}
	s.events.Add(event(9)) // the last words of a daemon
	s.end()
	next(5)
	if err := <-done; !errors.Is(err, ErrStopped) || !strings.HasSuffix(err.Error(), "/s: the daemon has stopped") {
		t.Errorf("when the daemon stops: %v", err)
	}
}

// TestEventsIdle: a stream on which nothing happens outlives all bounds for
// short answers, those of the server and those of the client.
func TestEventsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveEventsInMemory(t, status.NewEvents(10), 50*time.Millisecond)
		reader := s.client()
		reader.http.Timeout = shortAnswer
		seen, enough := make(chan error, 1), errors.New("enough")
		go func() { seen <- reader.Events(t.Context(), 0, true, func(status.Event) error { return enough }) }()
		c, r := s.open(t, "follow=1")
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := s.active.Load(); n != 2 || r.Buffered() > 0 {
			t.Fatalf("%d octets, %d answers are being given", r.Buffered(), n)
		}
		s.events.Add(event(1))
		if _, err := r.ReadString('{'); err != nil {
			t.Error("no event after a while without any:", err)
		}
		if err := <-seen; !errors.Is(err, enough) {
			t.Error("no event for the client:", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		s.answering(t, 0)
	})
}

// TestEventsSlowReader: readers that do not read hold up neither the daemon nor
// each other nor the end, and lose their connection.
func TestEventsSlowReader(t *testing.T) {
	const readers = 20
	flood := func(s *eventServer) {
		text := strings.Repeat("x", 1000)
		for i := range 3000 {
			e := event(i)
			e.Cause = text
			s.events.Add(e)
		}
	}
	t.Run("dropped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := serveEventsInMemory(t, status.NewEvents(1000), time.Second)
			for range readers {
				s.open(t, "follow=1")
			}
			s.answering(t, readers)
			flood(s)
			time.Sleep(time.Second - time.Millisecond)
			synctest.Wait()
			if n := s.active.Load(); n != readers {
				t.Errorf("%d of %d answers are being given before their time is up", n, readers)
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if n := s.active.Load(); n != 0 {
				t.Errorf("%d answers are being given after that", n)
			}
			var list []uint64
			if err := s.client().Events(t.Context(), 0, false, func(e status.Event) error {
				list = append(list, e.Seq)
				return nil
			}); err != nil || len(list) != 1000 || list[0] != 2001 {
				t.Errorf("an honest one got %d events: %v", len(list), err)
			}
		})
	})
	t.Run("stop", func(t *testing.T) {
		s := serveEvents(t, status.NewEvents(1000), time.Minute)
		for range readers {
			s.open(t, "follow=1")
		}
		s.answering(t, readers)
		flood(s)
		s.end()
		s.answering(t, 0)
	})
	t.Run("stop in memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := serveEventsInMemory(t, status.NewEvents(1000), time.Minute)
			for range readers {
				s.open(t, "follow=1")
			}
			s.answering(t, readers)
			flood(s)
			synctest.Wait()
			s.end()
			time.Sleep(goodbyeSteps*goodbyeStep - time.Millisecond)
			synctest.Wait()
			if n := s.active.Load(); n != readers {
				t.Errorf("%d of %d answers are being given before their time is up", n, readers)
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if n := s.active.Load(); n != 0 {
				t.Errorf("%d answers are being given after that", n)
			}
		})
	})
}

// TestEventsCutOff: a daemon that dies in the middle is not taken for one that
// has said everything.
func TestEventsCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for _, body := range []string{"{\"seq\":1}\n", "{\"seq\":1}\n{\"seq", "{\"seq\":1}\n", "<html>\n\n", strings.Repeat("x", maxEvent+1)} {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(c).ReadString('\n')
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(body), body)
			_ = c.Close()
		}
	}()
	for i, want := range []string{
		path + ": the daemon has stopped, or this reader was too slow",
		path + ": the daemon has stopped, or this reader was too slow",
		path + ": unexpected EOF",
		path + ": /v1/events: not an event of a vipspeaker of this version: invalid character '<' looking for beginning of value",
		path + ": bufio.Scanner: token too long",
	} {
		err := newClient(t, path).Events(t.Context(), 0, i != 2, func(status.Event) error { return nil })
		if err == nil || err.Error() != want {
			t.Errorf("%d: %v, want %s", i, err, want)
		}
	}
}
