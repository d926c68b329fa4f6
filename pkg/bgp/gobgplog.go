package bgp

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

const (
	// maxFaults bounds how many different faults are remembered.
	maxFaults = 8
	// fromPeer begins the reason of a session that the peer has ended.
	fromPeer = "received "
	// refusalHolds is how long a refused OPEN is taken for the cause of
	// connections that are closed.
	refusalHolds = time.Minute
)

// logAdapter is GoBGP's logger. GoBGP v3 gives no reason with its events, only
// in its log, so the adapter also collects why sessions end. GoBGP calls it
// with its locks held: it must not call back, and it formats at once because
// the fields hold live objects.
type logAdapter struct {
	log   *slog.Logger
	wake  chan struct{} // cap 1: there is something new to show
	debug atomic.Bool

	mu     sync.Mutex
	notes  map[string]string   // peer address: what was just seen on its connection
	errs   map[string]lastFall // peer address: why its session last ended or did not come up
	ends   map[string]lastFall // peer address: why its session last ended that was up
	faults []fault
	// restarts are the peers that are to be told of the restart in our OPEN.
	restarts map[string]*restart
}

// fault is something that GoBGP could not do for a peer or a listener although
// its calls succeeded.
type fault struct{ key, text string }

type lastFall struct {
	text string
	at   time.Time
	told bool // by the peer, with a NOTIFICATION
}

func newLogAdapter(log *slog.Logger, wake chan struct{}) *logAdapter {
	return &logAdapter{
		log: log, wake: wake, notes: map[string]string{}, errs: map[string]lastFall{}, ends: map[string]lastFall{},
		restarts: map[string]*restart{},
	}
}

// lastError returns why the peer's session last ended or did not come up.
func (l *logAdapter) lastError(peer string) (string, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.errs[peer]
	return e.text, e.at
}

// peerEnded tells whether the peer has ended the last session with a NOTIFICATION,
// and it has not come up since.
func (l *logAdapter) peerEnded(peer string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ends[peer].told
}

// explain replaces a reason that begins as given by one that says more, and tells
// whether it did.
func (l *logAdapter) explain(peer, begin, text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.errs[peer]
	if ok = ok && strings.HasPrefix(e.text, begin); ok {
		l.errs[peer] = lastFall{text, e.at, e.told}
		if l.ends[peer] == e {
			l.ends[peer] = l.errs[peer]
		}
	}
	return ok
}

// forget drops what is known of a peer.
func (l *logAdapter) forget(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.notes, peer)
	delete(l.errs, peer)
	delete(l.ends, peer)
	delete(l.restarts, peer)
}

// clearFaults forgets the faults of a peer that starts anew.
func (l *logAdapter) clearFaults(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = slices.DeleteFunc(l.faults, func(f fault) bool { return f.key == peer })
}

// fault returns what GoBGP could not do.
func (l *logAdapter) fault() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, f := range l.faults {
		errs = append(errs, fmt.Errorf("gobgp: %s", f.text))
	}
	return errors.Join(errs...)
}

func (l *logAdapter) addFault(key, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := fault{key, text}
	if len(l.faults) < maxFaults && !slices.Contains(l.faults, f) {
		l.faults = append(l.faults, f)
		poke(l.wake)
	}
}

func (l *logAdapter) note(peer, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if text == "" {
		delete(l.notes, peer)
		return
	}
	l.notes[peer] = text
}

// Panic implements gobgplog.Logger; its callers rely on it not to return.
func (l *logAdapter) Panic(msg string, fields gobgplog.Fields) {
	panic(fmt.Sprintf("gobgp: %s %v", msg, attrs(fields)))
}

// Fatal implements gobgplog.Logger; its callers rely on it not to return.
func (l *logAdapter) Fatal(msg string, fields gobgplog.Fields) {
	l.log.Error("gobgp gives up", append([]any{"message", msg}, attrs(fields)...)...)
	os.Exit(1)
}

// Error implements gobgplog.Logger.
func (l *logAdapter) Error(msg string, fields gobgplog.Fields) {
	l.log.Error("gobgp error", append([]any{"message", msg}, attrs(fields)...)...)
}

// Warn implements gobgplog.Logger. A peer can cause most of these at will, so
// they are for debugging; those that mean a broken promise are not.
func (l *logAdapter) Warn(msg string, fields gobgplog.Fields) {
	key := fieldText(fields["Key"])
	switch msg {
	case "received notification":
		l.note(key, fromPeer+notificationOf(fields))
	case "sent notification":
		l.note(key, "sent "+notificationOf(fields))
	case "failed to send":
		if err, ok := fields["Data"].(error); ok {
			l.note(key, writeFailed+socketText(err))
		}
	case "failed to serialize", "failed to set md5", "cannot set TTL (255) for TCPListener", "cannot set TTL for peer",
		"failed to bind Listener to device ", "Failed to AcceptTCP":
		l.addFault(key, strings.TrimSpace(msg)+": "+key+": "+faultCause(fields))
		l.log.Warn("gobgp warning", append([]any{"message", msg}, attrs(fields)...)...)
		return
	}
	l.Debug(msg, fields)
}

// Info implements gobgplog.Logger.
func (l *logAdapter) Info(msg string, fields gobgplog.Fields) { l.Debug(msg, fields) }

// Debug implements gobgplog.Logger.
func (l *logAdapter) Debug(msg string, fields gobgplog.Fields) {
	switch msg {
	case "failed to connect":
		if err, ok := fields["Error"].(error); ok {
			l.fell(fieldText(fields["Key"]), connectFailed+socketText(err), false)
		}
	case "state changed":
		l.stateChanged(fields)
	case "EOR received":
		l.beforeSync()
	case "sync finished":
		l.loseRestarts()
	}
	if l.debug.Load() {
		l.log.Debug("gobgp", append([]any{"message", msg}, attrs(fields)...)...)
	}
}

// SetLevel implements gobgplog.Logger; the level is not GoBGP's to choose.
func (l *logAdapter) SetLevel(gobgplog.LogLevel) {}

// GetLevel implements gobgplog.Logger. GoBGP reports failed connections only
// when it believes that debugging is on.
func (l *logAdapter) GetLevel() gobgplog.LogLevel { return gobgplog.DebugLevel }

// stateChanged turns the end of a connection into a reason.
func (l *logAdapter) stateChanged(fields gobgplog.Fields) {
	key, old, next := fieldText(fields["Key"]), fieldText(fields["old"]), fieldText(fields["new"])
	l.connection(key, strings.HasSuffix(next, "OPENSENT"))
	if !strings.HasSuffix(next, "IDLE") {
		switch {
		case strings.HasSuffix(next, "ACTIVE"):
			l.note(key, "")
		case strings.HasSuffix(next, "ESTABLISHED"):
			l.cameUp(key)
			l.beforeSync()
		}
		return
	}
	l.mu.Lock()
	text := l.notes[key]
	l.mu.Unlock()
	if text == "" {
		text = fallText(old, fieldText(fields["reason"]))
	}
	if text != "" {
		l.fell(key, text, strings.HasSuffix(old, "ESTABLISHED"))
	}
	l.note(key, "")
}

// fell notes why a session ended that was up, or why a connection came to
// nothing. That OPEN was refused says more than that the connection which did
// so, or another one beside it, is closed.
func (l *logAdapter) fell(peer, text string, wasUp bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if e := l.errs[peer]; text == closedEarly && strings.Contains(e.text, openError) && now.Sub(e.at) < refusalHolds {
		return
	}
	l.errs[peer] = lastFall{text, now, strings.HasPrefix(text, fromPeer)}
	if wasUp && !strings.Contains(text, openError) { // one that we refused was never up
		l.ends[peer] = l.errs[peer]
	}
	poke(l.wake)
}

// cameUp forgets what kept a session from coming up; why the one before it ended
// is still of interest.
func (l *logAdapter) cameUp(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.errs, peer)
	delete(l.restarts, peer)
	if e, ok := l.ends[peer]; ok {
		e.told = false // the next end may be one that nobody gives a reason for
		l.ends[peer], l.errs[peer] = e, e
	}
	poke(l.wake)
}

// notificationOf reads the NOTIFICATION out of a log line of GoBGP, which has
// either its code or the error that made it.
func notificationOf(fields gobgplog.Fields) string {
	if e, ok := fields["Data"].(*bgp.MessageError); ok {
		text := notificationText(e.TypeCode, e.SubTypeCode, "")
		if id, ok := strings.CutPrefix(e.Message, "bad BGP identifier "); ok && !strings.Contains(id, " ") {
			text += " (" + id + " is this host's own)"
		} else if e.Message != "" {
			text += " (" + e.Message + ")"
		}
		return text
	}
	code, _ := fields["Code"].(uint8)
	sub, _ := fields["Subcode"].(uint8)
	text, _ := fields["Communicated-Reason"].(string)
	return notificationText(code, sub, text)
}

func faultCause(fields gobgplog.Fields) string {
	for _, k := range []string{"Err", "Error", "Data"} {
		if v, ok := fields[k]; ok {
			return fieldText(v)
		}
	}
	return "unknown cause"
}

// attrs turns GoBGP's fields into slog's, in a stable order.
func attrs(fields gobgplog.Fields) []any {
	var out []any
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		name := strings.ToLower(strings.NewReplacer(" ", "_", "-", "_").Replace(k))
		if k == "Key" {
			name = "peer"
		}
		out = append(out, name, fieldText(fields[k]))
	}
	return out
}
