package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"vipspeaker/pkg/status"
)

const (
	// eventsPatience is how long a client may take to make room for events: one
	// that reads them at all needs far less.
	eventsPatience = 10 * time.Second
	// goodbyeSteps and goodbyeStep are how long a stream has at the end of the server,
	// which waits for no client. A host that stands still meanwhile takes away a step,
	// not the last words.
	goodbyeSteps = 10
	goodbyeStep  = 10 * time.Millisecond
	// maxEvent bounds one event in the client. Texts of routers are short.
	maxEvent = 1 << 20
)

// eventsQuery is what a client asks for: events after a number, and whether also
// those to come.
type eventsQuery struct {
	since  uint64
	follow bool
}

func parseEventsQuery(raw string) (q eventsQuery, err error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return q, fmt.Errorf("the query cannot be read: %w", err)
	}
	for name, value := range values {
		if !slices.Contains([]string{"since", "follow"}, name) {
			return q, fmt.Errorf("parameter %q: not known; there are since and follow", name)
		}
		if len(value) > 1 {
			return q, fmt.Errorf("parameter %q: given more than once", name)
		}
	}
	if values.Has("since") {
		if q.since, err = strconv.ParseUint(values.Get("since"), 10, 64); err != nil {
			return q, fmt.Errorf("since: %q: want the number of an event, 0 or above", values.Get("since"))
		}
	}
	if values.Has("follow") {
		if q.follow, err = strconv.ParseBool(values.Get("follow")); err != nil {
			return q, fmt.Errorf("follow: %q: want 1 or 0", values.Get("follow"))
		}
	}
	return q, nil
}

// eventsHandler streams events until the client has what it asked for, leaves
// or takes too long, or until life ends.
//
// A stream holds nothing but its place in the ring: a client that is slow loses
// events, and sees that in their numbers, and one that does not read at all
// loses its connection.
func eventsHandler(life context.Context, events *status.Events, patience time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := parseEventsQuery(r.URL.RawQuery)
		if last := events.Last(); err == nil && q.since > last {
			err = fmt.Errorf("since: %d: the last event is %d; has the daemon been started again?", q.since, last)
		}
		if err != nil {
			reply(w, http.StatusBadRequest, failure{err.Error()})
			return
		}
		rc := http.NewResponseController(w)
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		s := &stream{out: bufio.NewWriter(w), rc: rc, events: events, last: q.since, patience: patience}
		answered, ended := make(chan struct{}), make(chan struct{})
		unhook := context.AfterFunc(life, func() {
			defer close(ended)
			cancel()
			s.goodbye(answered)
		})
		defer func() {
			close(answered)
			if !unhook() {
				<-ended // the response must not be touched after the handler
			}
		}()
		w.Header().Set("Content-Type", "application/x-ndjson")
		s.run(ctx, q.follow) //nolint:contextcheck // it ends with the request and with the server
	}
}

// stream is one answer with events.
type stream struct {
	out      *bufio.Writer
	rc       *http.ResponseController
	events   *status.Events
	last     uint64 // number of the last one that was written
	patience time.Duration
	over     atomic.Bool // nothing more is to be written
}

// goodbye ends the stream when its last words have had their time, unless it has been
// answered before.
func (s *stream) goodbye(answered <-chan struct{}) {
	step := time.NewTicker(goodbyeStep)
	defer step.Stop()
	for range goodbyeSteps {
		select {
		case <-answered:
			return
		case <-step.C:
		}
	}
	s.over.Store(true)
	s.rc.SetWriteDeadline(time.Now()) //nolint:errcheck,gosec // the server closes the connection in the end
}

// run writes events, with follow until ctx ends, or until one cannot be written.
func (s *stream) run(ctx context.Context, follow bool) {
	for over := !follow; s.write() == nil && !over; {
		// What came before the end is written all the same.
		over = s.events.Wait(ctx, s.last) != nil
	}
}

// write writes the events that are new, or, if there are none yet, the header:
// the client then knows that it is heard.
func (s *stream) write() error {
	if err := s.rc.SetWriteDeadline(time.Now().Add(s.patience)); err != nil {
		return err
	}
	if s.over.Load() { // that deadline may have been there before this one
		return context.DeadlineExceeded
	}
	list, _ := s.events.Since(s.last)
	encoder := json.NewEncoder(s.out)
	for i := range list {
		if err := encoder.Encode(&list[i]); err != nil {
			return err
		}
		s.last = list[i].Seq
	}
	if err := s.out.Flush(); err != nil {
		return err
	}
	return s.rc.Flush()
}

// ErrStopped is the end of a stream of events because the daemon has stopped.
var ErrStopped = errors.New("the daemon has stopped")

// Events calls each with every event whose number is above since, in their
// order, until it returns an error, which Events then returns. Numbers that are
// left out are events that the daemon no longer has.
//
// With follow it waits for more until ctx ends, which gives the error of ctx, or
// until the daemon stops, which gives one that wraps ErrStopped.
func (c *Client) Events(ctx context.Context, since uint64, follow bool, each func(status.Event) error) error {
	query := url.Values{"since": {strconv.FormatUint(since, 10)}}
	client := c.http
	if follow {
		query.Set("follow", "1")
		client.Timeout = 0 // of the whole answer; that of its header remains
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://vipspeaker/v1/events?"+query.Encode(), http.NoBody)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return c.ended(ctx, err)
	}
	defer res.Body.Close() //nolint:errcheck // it was only read
	if res.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(res.Body, maxEvent))
		if err != nil {
			return c.ended(ctx, err)
		}
		return c.refused(req, res, body)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		var e status.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			if !lines.Scan() && lines.Err() != nil {
				break // the line was cut off
			}
			return fmt.Errorf("%s: %s: not an event of a vipspeaker of this version: %w", c.path, req.URL.Path, err)
		}
		if err := each(e); err != nil {
			return err
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, io.ErrUnexpectedEOF) && follow:
		return fmt.Errorf("%s: %w, or this reader was too slow", c.path, ErrStopped)
	case err != nil:
		return c.ended(ctx, err)
	case follow:
		return fmt.Errorf("%s: %w", c.path, ErrStopped)
	}
	return nil
}

// ended explains the end of a call, which may be what ctx asked for.
func (c *Client) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return c.explain(err)
}
