package speaker

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/status"
)

// logTransitions writes one line for everything that became another than in the
// picture before: a warning when it got worse, and a plain line when it is well
// again. The first picture has no before, so it warns of nothing that a start
// brings with it.
func logTransitions(ctx context.Context, logger *slog.Logger, prev, next *status.Status, told troubles) {
	first := prev == nil
	if first {
		prev = &status.Status{}
	}
	worse := slog.LevelWarn
	if first || next.Stopping {
		worse = slog.LevelInfo
	}
	logVIPs(ctx, logger, prev, next, worse)
	logInterfaces(ctx, logger, prev, next, worse)
	logPeers(ctx, logger, prev, next, worse, told)
	logProblems(ctx, logger, prev, next)
	logPasses(ctx, logger, prev, next)
}

// emit logs at a level that is decided at run time.
func emit(ctx context.Context, logger *slog.Logger, level slog.Level, message string, args ...any) {
	logger.Log(ctx, level, message, args...) //nolint:sloglint // the callers' messages are static
}

func logVIPs(ctx context.Context, logger *slog.Logger, prev, next *status.Status, worse slog.Level) {
	before := make(map[string]*status.VIP, len(prev.VIPs))
	for i := range prev.VIPs {
		before[prev.VIPs[i].Name] = &prev.VIPs[i]
	}
	for i := range next.VIPs {
		v := &next.VIPs[i]
		old, known := before[v.Name]
		if !known {
			old = &status.VIP{}
		}
		switch {
		case v.Announced && !old.Announced:
			emit(ctx, logger, slog.LevelInfo, "vip announced", "vip", v.Name, "prefix", v.Prefix, "interfaces", carrying(v))
		case !v.Announced && (!known || old.Reason != v.Reason):
			// What was withheld before, and now is for another reason, may well
			// be on its way up.
			level := slog.LevelInfo
			if old.Announced {
				level = worse
			}
			emit(ctx, logger, level, "vip withheld", "vip", v.Name, "prefix", v.Prefix, "reason", v.Reason, "detail", v.Detail)
		case !v.Announced && old.Detail != v.Detail:
			emit(ctx, logger, slog.LevelDebug, "vip still withheld", "vip", v.Name, "reason", v.Reason, "detail", v.Detail)
		}
		logChecks(ctx, logger, v, old, worse)
	}
}

// carrying names the interfaces on which a VIP is announced.
func carrying(v *status.VIP) string {
	var names []string
	for i := range v.Interfaces {
		if v.Interfaces[i].Announced {
			names = append(names, v.Interfaces[i].Interface)
		}
	}
	return strings.Join(names, ",")
}

func logChecks(ctx context.Context, logger *slog.Logger, v, old *status.VIP, worse slog.Level) {
	for i := range v.Checks {
		c := &v.Checks[i]
		was := status.Check{Verdict: string(health.Unknown)}
		if k := slices.IndexFunc(old.Checks, func(o status.Check) bool { return o.Name == c.Name }); k >= 0 {
			was = old.Checks[k]
		}
		level := worse
		if c.Verdict == string(health.Healthy) {
			level = slog.LevelInfo
		}
		switch {
		case c.Verdict != was.Verdict:
			emit(ctx, logger, level, "check verdict", "vip", v.Name, "check", c.Name, "verdict", c.Verdict, "error", c.Reason)
		case c.Reason != was.Reason:
			emit(ctx, logger, slog.LevelDebug, "check result", "vip", v.Name, "check", c.Name, "verdict", c.Verdict, "error", c.Reason)
		}
	}
}

func logInterfaces(ctx context.Context, logger *slog.Logger, prev, next *status.Status, worse slog.Level) {
	for i := range next.Interfaces {
		n := &next.Interfaces[i]
		k := slices.IndexFunc(prev.Interfaces, func(o status.Interface) bool { return o.Name == n.Name })
		known := k >= 0
		switch {
		case n.Usable && (!known || !prev.Interfaces[k].Usable):
			emit(ctx, logger, slog.LevelInfo, "interface usable", "interface", n.Name)
		case !n.Usable && (!known || prev.Interfaces[k].Usable):
			emit(ctx, logger, worse, "interface unusable", "interface", n.Name, "reason", n.Reason, "detail", n.Detail)
		case !n.Usable && prev.Interfaces[k].Reason != n.Reason:
			emit(ctx, logger, slog.LevelDebug, "interface still unusable", "interface", n.Name, "reason", n.Reason, "detail", n.Detail)
		}
	}
}

// trouble is why a session does not come up.
type trouble struct {
	iface string
	peer  netip.Addr
	text  string
}

// troubles are those that were warned of, with the time.
type troubles map[trouble]time.Time

// repeatAfter is when a peer's trouble may be warned of again that came back.
const repeatAfter = time.Minute

// level is a warning for what was not told lately.
func (t troubles) level(p *status.Peer, now time.Time) slog.Level {
	maps.DeleteFunc(t, func(_ trouble, at time.Time) bool { return now.Sub(at) >= repeatAfter })
	key := trouble{p.Interface, p.Address, p.LastError}
	if _, told := t[key]; told || p.LastError == "" {
		return slog.LevelDebug
	}
	t[key] = now
	return slog.LevelWarn
}

func logPeers(ctx context.Context, logger *slog.Logger, prev, next *status.Status, worse slog.Level, told troubles) {
	up := string(bgp.Established)
	for i := range next.Peers {
		p := &next.Peers[i]
		was := status.Peer{State: stateDown}
		if k := slices.IndexFunc(prev.Peers, func(o status.Peer) bool { return o.Interface == p.Interface && o.Address == p.Address }); k >= 0 {
			was = prev.Peers[k]
		}
		switch {
		case p.State == up && was.State != up:
			emit(ctx, logger, slog.LevelInfo, "peer up", "peer", p.Address, "interface", p.Interface, "local_address", p.LocalAddress)
		case p.State != up && was.State == up:
			emit(ctx, logger, worse, "peer down", "peer", p.Address, "interface", p.Interface, "state", p.State, "last_error", p.LastError)
		case p.State != up && p.LastError != was.LastError && p.State != stateDown && p.Transitions == 0 && !next.Stopping:
			// Of a session that was up, its end has been told.
			emit(ctx, logger, told.level(p, next.Time), "peer does not come up", "peer", p.Address, "interface", p.Interface, "state", p.State, "last_error", p.LastError)
		case p.State != up && p.LastError != was.LastError:
			emit(ctx, logger, slog.LevelDebug, "peer still down", "peer", p.Address, "interface", p.Interface, "state", p.State, "last_error", p.LastError)
		}
	}
}

func logProblems(ctx context.Context, logger *slog.Logger, prev, next *status.Status) {
	for _, text := range next.Kernel.Problems {
		if !slices.Contains(prev.Kernel.Problems, text) {
			emit(ctx, logger, slog.LevelWarn, "kernel problem", "problem", text)
		}
	}
	for _, text := range prev.Kernel.Problems {
		if !slices.Contains(next.Kernel.Problems, text) {
			emit(ctx, logger, slog.LevelInfo, "kernel problem solved", "problem", text)
		}
	}
}

func logPasses(ctx context.Context, logger *slog.Logger, prev, next *status.Status) {
	was, is := prev.Passes.LastError, next.Passes.LastError
	switch {
	case is == "" && was != "":
		emit(ctx, logger, slog.LevelInfo, "pass complete again")
	case is != "" && was == "":
		emit(ctx, logger, slog.LevelWarn, "pass incomplete", "error", is)
	case is != was:
		emit(ctx, logger, slog.LevelDebug, "pass still incomplete", "error", is)
	}
}
