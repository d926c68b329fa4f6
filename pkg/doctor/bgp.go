package doctor

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lookUnfit reports what of the configuration does not fit the host; who read it
// has found that out.
func lookUnfit(e *exam) {
	for _, text := range e.in.Unfit {
		subject, _, _ := strings.Cut(text, ":")
		e.find(&Finding{
			Subject: subject, Found: text,
			Command: "# give the host what is missing (ip link, ip addr), or correct " + subject + " in the configuration, and: vipspeaker reload",
		})
	}
}

const tcpListen = 10 // TCP_LISTEN of linux/net/tcp_states.h

// lookPort looks for others that listen on the BGP port of our interfaces.
func lookPort(e *exam) {
	if e.in.ListenPort == 0 {
		return
	}
	h, ok := e.network()
	if !ok {
		return
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagTCP(family)
		if err != nil {
			e.cannot("list sockets: %v", err)
			return
		}
		for _, s := range sockets {
			if s.State != tcpListen || s.ID.SourcePort != e.in.ListenPort || !e.concerns(h, addrOf(s.ID.Source)) {
				continue
			}
			e.taken(netip.AddrPortFrom(addrOf(s.ID.Source), e.in.ListenPort), s.INode)
		}
	}
}

// concerns tells whether a listener on the address is in the way of ours.
func (e *exam) concerns(h *host, a netip.Addr) bool {
	return a.IsUnspecified() || slices.ContainsFunc(h.has(a), func(o netlink.Addr) bool {
		name := h.linkName(o.LinkIndex)
		return slices.ContainsFunc(e.in.Interfaces, func(n Interface) bool { return n.Name == name })
	})
}

func (e *exam) taken(at netip.AddrPort, inode uint32) {
	pid, name := ownerOf(inode)
	if e.in.Daemon != nil {
		switch {
		case pid == 0:
			e.cannot("whose the socket on %s is needs root to be seen", at)
			return
		case pid == e.in.Daemon.PID || slices.Contains(e.in.Daemon.Speakers, pid) || parentOf(pid) == e.in.Daemon.PID && e.in.Daemon.PID != 0:
			return
		}
	}
	f := &Finding{
		Subject: at.String(), Found: fmt.Sprintf("another process listens on %s; which one needs root to be seen", at),
		Command: fmt.Sprintf("ss -ltnp 'sport = :%d'  # as root; stop what it shows, or set bgp.listen_port: 0 in the configuration", at.Port()),
	}
	if pid != 0 {
		f.Found = fmt.Sprintf("%s (process %d) listens on %s", name, pid, at)
		f.Command = fmt.Sprintf("kill %d", pid)
		if unit := unitOf(pid); unit != "" {
			f.Command = shell([]string{"systemctl", "disable", "--now", unit})
		}
	}
	e.find(f)
}

// ownerOf is the process that has the socket open, 0 if it cannot be seen.
func ownerOf(inode uint32) (pid int, name string) {
	want := fmt.Sprintf("socket:[%d]", inode)
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, ""
	}
	for _, path := range files {
		if target, _ := os.Readlink(path); target != want { // it may have closed it
			continue
		}
		pid, err = strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			continue
		}
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return pid, printable(strings.TrimSpace(string(comm)))
	}
	return 0, ""
}

// printable is a name that anybody may have chosen, without what would drive a
// terminal.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, name)
}

// parentOf is the process that started another, 0 if that is not known.
func parentOf(pid int) int {
	fields := statOf(pid)
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return parent
}

// statOf are the fields of /proc/PID/stat after the name (proc(5)).
func statOf(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
}

// unitOf is the systemd service of a process, empty if it is none.
func unitOf(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if unit := filepath.Base(strings.TrimSpace(line)); strings.HasSuffix(unit, ".service") && strings.Contains(line, "system.slice") {
			return unit
		}
	}
	return ""
}

// lookCapabilities looks for what is configured for a session and was not
// negotiated.
func lookCapabilities(e *exam) {
	// A family is missed where there is a VIP of it and no session carries it: of
	// two sessions with a router, one for each family will do.
	check := func(where string, p *Peer, beside []Peer) {
		if p.Has == nil {
			return
		}
		alone4 := e.hasFamily(true) && !slices.ContainsFunc(beside, func(o Peer) bool {
			return o.Has != nil && o.Has.IPv4 && (o.Address.Is4() || o.Has.ExtendedNextHop)
		})
		alone6 := e.hasFamily(false) && !slices.ContainsFunc(beside, func(o Peer) bool { return o.Has != nil && o.Has.IPv6 })
		tell := func(severity Severity, wants, has bool, what, why, remedy string) {
			if !wants || has {
				return
			}
			e.find(&Finding{
				Subject: p.Address.String(), Severity: severity, Why: why,
				Found:   fmt.Sprintf("the session with %s (%s) is established without %s", p.Address, where, what),
				Command: "# on the router: " + strings.ReplaceAll(remedy, "HOST", "this host"),
			})
		}
		tell(Bad, p.Wants.IPv4 && alone4, p.Has.IPv4, "IPv4 unicast", "no IPv4 VIP is announced by it", "activate IPv4 unicast for HOST (FRR: address-family ipv4 unicast, neighbor … activate)")
		tell(Bad, p.Wants.IPv6 && alone6, p.Has.IPv6, "IPv6 unicast", "no IPv6 VIP is announced by it", "activate IPv6 unicast for HOST (FRR: address-family ipv6 unicast, neighbor … activate)")
		tell(Bad, p.Wants.ExtendedNextHop && p.Has.IPv4 && alone4, p.Has.ExtendedNextHop, "extended next hops (RFC 8950)",
			"it takes no IPv4 VIP with an IPv6 next hop", "enable them for HOST (FRR: neighbor … capability extended-nexthop)")
		tell(Warning, p.Wants.GracefulRestart, p.Has.GracefulRestart, "graceful restart (RFC 4724)",
			"the router drops the routes at once when the daemon restarts", "enable it, at least as a helper (FRR: bgp graceful-restart), or set bgp.graceful_restart: {enabled: false}")
		tell(Warning, p.Wants.LongLived && p.Has.GracefulRestart, p.Has.LongLived, "long-lived graceful restart (RFC 9494)",
			"the router drops the routes when the restart time is over", "enable it, or take long_lived out of the configuration")
		tell(Warning, p.Wants.AddPath, p.Has.AddPath, "ADD-PATH (RFC 7911)",
			"it gets one path of the several, so it does not spread traffic over the interfaces", "let it receive several paths from HOST (FRR: neighbor … addpath-rx)")
	}
	for i := range e.in.Interfaces {
		for j := range e.in.Interfaces[i].Peers {
			check(e.in.Interfaces[i].Name, &e.in.Interfaces[i].Peers[j], e.in.Interfaces[i].Peers)
		}
	}
	for i := range e.in.Peers {
		check("no interface", &e.in.Peers[i], e.in.Peers)
	}
}

const (
	// stepTolerance is what two readings of the clocks may differ by.
	stepTolerance = time.Second
	// startTolerance is how long the process of a daemon may run before that says that it
	// has started, on a host that is busy with its own start.
	startTolerance = 5 * time.Second
)

// lookClock looks whether the clock is right, as far as the kernel knows, and
// whether it was set since the daemon started.
func lookClock(e *exam) {
	read := e.in.Unsynchronised
	if read == nil {
		read = unsynchronised
	}
	switch wrong, err := read(); {
	case err != nil:
		e.cannot("read the state of the clock: %v", err)
	case wrong:
		e.find(&Finding{Subject: "clock", Found: "the kernel's clock is not synchronised", Command: "timedatectl set-ntp true", Undo: "timedatectl set-ntp false"})
	}
	if e.in.Daemon == nil || e.in.Daemon.PID == 0 || e.in.Daemon.Started.IsZero() {
		return
	}
	age, err := ageOf(e.in.Daemon.PID)
	since := time.Since(e.in.Daemon.Started.Round(0))
	later, laterErr := ageOf(e.in.Daemon.PID)
	if err != nil || laterErr != nil {
		return // it has ended
	}
	// Time passes between two readings: as much as the machine stands still for.
	step := max(since-later, 0)
	if since < age-startTolerance {
		step = since - age
	}
	if step.Abs() > stepTolerance+age/500 {
		e.find(&Finding{
			Subject: "clock", Found: fmt.Sprintf("the clock was set by %s since the daemon started %s ago", step.Round(time.Second), age.Round(time.Second)),
			Command: "timedatectl timesync-status  # find out what sets it in steps; chronyc tracking, ntpq -p for others",
		})
	}
}

// unsynchronised asks the kernel (adjtimex(2)).
func unsynchronised() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0, err
}

// ageOf is how long a process runs, by a clock that nobody sets.
func ageOf(pid int) (time.Duration, error) {
	const ticks = 100 // USER_HZ, the same on all machines that Go runs on
	fields := statOf(pid)
	if len(fields) < 20 {
		return 0, os.ErrProcessDone
	}
	started, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return 0, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, err
	}
	return time.Duration(now.Nano()) - time.Duration(started)*time.Second/ticks, nil
}
