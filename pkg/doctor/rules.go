package doctor

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// rulesLength is how many priorities ours take up; rulesAfter is one behind ours
// and before that of the main table.
const (
	rulesLength = 600
	rulesAfter  = 610
)

// lookForeignRules looks for rules of others that win over ours where there is
// something to decide: for what has no source yet, or has a VIP.
func lookForeignRules(e *exam) {
	h, ok := e.network()
	if !ok {
		return
	}
	for i := range h.rules {
		r := &h.rules[i]
		if int(r.proto) == e.in.Protocol || r.priority >= e.in.Priority || !e.decides(r) || !e.hasFamily(r.family == unix.AF_INET) {
			continue
		}
		what := fmt.Sprintf("%s rule %d", familyName(r.family), r.priority)
		command, selector := ip(r.family == unix.AF_INET), r.selector()
		after := e.in.Priority + rulesAfter + r.priority%50
		move := func(from, to int) string {
			return fmt.Sprintf("%s rule add pref %d %s && %s rule del pref %d %s", command, to, selector, command, from, selector)
		}
		f := &Finding{
			Subject: what,
			Found:   fmt.Sprintf("%s (%s) of another owner comes before ours, which begin at %d", what, selector, e.in.Priority),
			Command: move(r.priority, after), Undo: move(after, r.priority),
		}
		if r.more { // without that it would be a rule for other packets
			f.Found = fmt.Sprintf("%s (%s, and more) of another owner comes before ours, which begin at %d", what, selector, e.in.Priority)
			f.Command = fmt.Sprintf("%s rule show pref %d  # give it a priority above %d, with all that it selects by", command, r.priority, after-1)
			f.Undo = ""
		}
		e.find(f)
	}
}

// decides tells whether a rule can decide about packets that we care for.
func (e *exam) decides(r *rule) bool {
	switch {
	case r.vrf, r.action == unix.FR_ACT_NOP:
		return false
	case r.action == unix.FR_ACT_TO_TBL && r.table == unix.RT_TABLE_LOCAL:
		return false
	case r.action == unix.FR_ACT_GOTO && r.jump <= e.in.Priority:
		return false
	case r.iif != "" && r.iif != "lo":
		return false // what others send through this host
	}
	// A rule with a source never takes what has none yet.
	return !r.src.IsValid() || r.invert || r.src.Addr().IsUnspecified() ||
		slices.ContainsFunc(e.in.VIPs, func(v VIP) bool { return r.src.Overlaps(v.Prefix) })
}

// lookOwnRules looks for rules that the daemon should have and that are not
// there.
func lookOwnRules(e *exam) {
	if e.in.Daemon == nil {
		return
	}
	h, ok := e.network()
	if !ok {
		return
	}
	for _, v := range e.in.VIPs {
		a := v.Prefix.Addr()
		if !v.Prefix.IsSingleIP() || !e.bound(h, a) {
			continue // which is another matter
		}
		if slices.ContainsFunc(h.rules, func(r rule) bool {
			return r.table == e.in.Table && r.priority < e.in.Priority+rulesLength && r.src.IsValid() && r.src.Contains(a)
		}) {
			continue
		}
		e.find(&Finding{
			Subject: v.Name,
			Found:   fmt.Sprintf("no rule leads packets from %s to routing table %d", a, e.in.Table),
			Command: fmt.Sprintf("%s rule add pref %d from %s lookup %d protocol %d  # or, if the daemon did not put it back by itself: systemctl restart vipspeaker",
				ip(a.Is4()), e.in.Priority+1, a, e.in.Table, e.in.Protocol),
		})
	}
}

// lookLeftBehind looks for what a daemon that no longer runs has left and that
// does harm: routes with a source that the host has no more.
func lookLeftBehind(e *exam) {
	if e.in.Daemon != nil {
		return
	}
	h, ok := e.network()
	routes, read := e.routes()
	if !ok || !read {
		return
	}
	seen := map[netip.Addr]bool{}
	for i := range routes {
		r := &routes[i]
		source := addrOf(r.Src)
		if !e.ours(r) || !source.IsValid() || seen[source] || len(h.has(source)) > 0 {
			continue
		}
		leads := slices.IndexFunc(h.rules, func(u rule) bool { return u.table == r.Table && u.family == r.Family })
		if leads < 0 {
			continue
		}
		seen[source] = true
		e.find(&Finding{
			Subject: source.String(),
			Found: fmt.Sprintf("no daemon runs, rule %d leads to routing table %d, and its routes have the source %s, which the host has no more",
				h.rules[leads].priority, r.Table, source),
			Command: "vipspeaker cleanup",
		})
	}
}
