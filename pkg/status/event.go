package status

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The levels of an event.
const (
	LevelInfo = "info"
	LevelWarn = "warn"
)

// Event is one transition.
type Event struct {
	// Seq grows by one with each event of the process, from 1.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	// Level is info or warn: whether it got worse.
	Level string `json:"level"`
	// Kind is the kind of subject: vip, check, interface, probe, peer, bfd,
	// speaker, source, kernel, config or daemon. Subject names it; Interface and
	// VIP say where it is, if that is not the subject itself.
	Kind      string `json:"kind"`
	Subject   string `json:"subject"`
	Interface string `json:"interface,omitempty"`
	VIP       string `json:"vip,omitempty"`
	// Message says what happened in few fixed words, such as "peer down"; From
	// and To are the states where there are such.
	Message string `json:"message"`
	From    string `json:"from,omitempty"`
	To      string `json:"to,omitempty"`
	// Cause is why, in words; empty if that is not known.
	Cause string `json:"cause,omitempty"`
}

// otherKind is how events of a kind that is none of eventKinds are counted.
const otherKind = "other"

// eventKinds are the values of Event.Kind.
func eventKinds() []string {
	return []string{"vip", "check", "interface", "probe", "peer", "bfd", "speaker", "source", "egress", "kernel", "config", "daemon"}
}

// KeptEvents is how many events a daemon keeps.
const KeptEvents = 1000

// Events keeps the last events of the process in memory and counts all of them.
// Any goroutine may call it. As a prometheus.Collector it gives
// vipspeaker_events_total. The zero value is not usable, see NewEvents.
type Events struct {
	total *prometheus.CounterVec

	mu     sync.Mutex
	ring   []Event // the event with number n is at (n - 1) modulo the capacity
	last   uint64  // number of the newest event, 0 before the first
	waiter chan struct{}
}

// NewEvents returns a ring for that many events, at least one.
func NewEvents(capacity int) *Events {
	e := &Events{
		ring: make([]Event, max(capacity, 1)),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vipspeaker_events_total",
			Help: "Transitions of what the daemon watches, as `vipspeaker events` shows them; warn is for the worse.",
		}, []string{"kind", "level"}),
	}
	// A counter that is there before its first event lets increase() see it.
	for _, kind := range eventKinds() {
		for _, level := range []string{LevelInfo, LevelWarn} {
			e.total.WithLabelValues(kind, level)
		}
	}
	return e
}

// Add keeps one more event, in the place of the oldest one if the ring is full.
// It gives the event its number and, unless it has one, its time, and returns
// it so. It never waits for those who read.
func (e *Events) Add(event Event) Event {
	kind, level := event.Kind, event.Level
	if !slices.Contains(eventKinds(), kind) {
		kind = otherKind
	}
	if level != LevelWarn {
		level = LevelInfo
	}
	e.total.WithLabelValues(kind, level).Inc()

	e.mu.Lock()
	defer e.mu.Unlock()
	if event.Time.IsZero() {
		event.Time = time.Now()
	}
	event.Seq = e.last + 1
	e.ring[e.last%uint64(len(e.ring))] = event
	e.last = event.Seq
	if e.waiter != nil {
		close(e.waiter)
		e.waiter = nil
	}
	return event
}

// Since returns the events with a number above seq, the oldest first. Lost tells
// that some of them have left the ring.
func (e *Events) Since(seq uint64) (events []Event, lost bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if seq >= e.last {
		return nil, false
	}
	size := uint64(len(e.ring))
	if e.last-seq > size {
		seq, lost = e.last-size, true
	}
	events = make([]Event, 0, e.last-seq)
	for ; seq < e.last; seq++ {
		events = append(events, e.ring[seq%size])
	}
	return events, lost
}

// Last returns the number of the newest event, 0 before the first.
func (e *Events) Last() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// Wait returns nil once there is an event with a number above seq, and the
// error of ctx if that ends before.
func (e *Events) Wait(ctx context.Context, seq uint64) error {
	for {
		e.mu.Lock()
		newer := e.last > seq
		if !newer && e.waiter == nil {
			e.waiter = make(chan struct{})
		}
		added := e.waiter
		e.mu.Unlock()
		if newer {
			return nil
		}
		select {
		case <-added:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Describe implements prometheus.Collector.
func (e *Events) Describe(ch chan<- *prometheus.Desc) { e.total.Describe(ch) }

// Collect implements prometheus.Collector.
func (e *Events) Collect(ch chan<- prometheus.Metric) { e.total.Collect(ch) }
