package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// The UDP ports of BFD (RFC 5881 section 4, RFC 5883 section 5).
const (
	portBFD      = 3784
	portMultihop = 4784
)

// anyPort is a port that nobody has rules for.
const anyPort = 49999

// fwTable is the table that keeps the source of packets from VIPs; fwMark begins
// the comments of our rules.
const (
	fwTable = "vipspeaker_doctor"
	fwMark  = "vipspeaker doctor"
)

// strangers are clients that no rule is for (RFC 5737, RFC 3849).
func stranger(ipv4 bool) netip.Addr {
	if ipv4 {
		return netip.MustParseAddr("203.0.113.77")
	}
	return netip.MustParseAddr("2001:db8:77::77")
}

// lookMasquerade looks for rules that give packets from a VIP another source.
func lookMasquerade(e *exam) {
	fw, ok := e.ruleset()
	if !ok {
		return
	}
	for _, v := range e.in.VIPs {
		if !v.Prefix.IsSingleIP() {
			continue
		}
		a := v.Prefix.Addr()
		var names []string
		var decider *chain
		var by string
		for _, n := range e.in.Interfaces {
			if !slices.Contains(v.Interfaces, n.Name) {
				continue
			}
			fates, c, w := fw.through(&packet{out: n.Name, src: a, dst: stranger(a.Is4()), proto: "tcp", sport: anyPort, dport: anyPort, state: "new"}, true, "postrouting")
			switch {
			case fates&rewritten == 0:
			case fates&accepted != 0:
				e.cannot("%s may change the source %s: %s is not understood", c, a, w.unsure)
			default:
				names, decider, by = append(names, n.Name), c, w.writer
			}
		}
		if decider == nil {
			continue
		}
		f := &Finding{
			Subject: v.Name, Found: fmt.Sprintf("what leaves from %s by %s gets another source (%s)", a, strings.Join(names, ", "), by),
		}
		if !v.PreferredSource {
			f.Severity = Warning
		}
		exempt(f, a, names, decider.priority)
		e.find(f)
	}
}

// exempt is a table of ours, asked before the one that rewrites: a packet from
// the VIP gets the source that it has, and the kernel asks no further.
func exempt(f *Finding, a netip.Addr, names []string, before float64) {
	family := "ip"
	if a.Is6() {
		family = "ip6"
	}
	chainName := fmt.Sprintf("before_%d", int(before))
	do := [][]string{
		{"nft", "add", "table", family, fwTable},
		{"nft", "add", "chain", family, fwTable, strings.ReplaceAll(chainName, "-", "m"), fmt.Sprintf("{ type nat hook postrouting priority %d; }", int(before)-1)},
	}
	for _, name := range names {
		do = append(do, []string{
			"nft", "add", "rule", family, fwTable, strings.ReplaceAll(chainName, "-", "m"),
			"oifname", strconv.Quote(name), family, "saddr", a.String(), "snat", "to", a.String(),
		})
	}
	commands(f, do, [][]string{{"nft", "delete", "table", family, fwTable}})
}

// asked is a packet that must pass, with the words that select it in a rule.
type asked struct {
	packet

	what string
	in   bool
}

// passing tells what becomes of a packet: dropped for sure (with the chain and
// the rule), or maybe.
func (fw *firewall) passing(q *asked) (certain bool, at *chain, w *walk, unsure bool) {
	hooks := []string{"output", "postrouting"}
	if q.in {
		hooks = []string{"ingress", "prerouting", "input"}
	}
	fates, at, w := fw.through(&q.packet, false, hooks...)
	return fates == dropped, at, w, fates&dropped != 0 && fates != dropped
}

// dropsOf finds the packets that are dropped and reports them, a finding for
// each chain.
func (e *exam) dropsOf(fw *firewall, list []asked, severity func(*asked) Severity) {
	type group struct {
		at    *chain
		list  []*asked
		rules []string
		worst Severity
	}
	var groups []*group
	for i := range list {
		q := &list[i]
		certain, at, w, unsure := fw.passing(q)
		if unsure {
			e.cannot("%s may drop %s: %s is not understood", at, q.what, w.unsure)
		}
		if !certain {
			continue
		}
		k := slices.IndexFunc(groups, func(g *group) bool { return g.at == at })
		if k < 0 {
			groups = append(groups, &group{at: at, worst: Note})
			k = len(groups) - 1
		}
		g := groups[k]
		g.list = append(g.list, q)
		if !slices.Contains(g.rules, w.dropper) {
			g.rules = append(g.rules, w.dropper)
		}
		if s := severity(q); rank(s) < rank(g.worst) {
			g.worst = s
		}
	}
	for _, g := range groups {
		f := &Finding{
			Subject: g.at.String(), Severity: g.worst,
			Found: strings.Join(g.rules, " and ") + " drops " + join(g.list, func(q *asked) string { return q.what }),
		}
		allow(f, g.at, g.list)
		if g.worst == Note {
			f.Remedy = ByHand
		}
		e.find(f)
	}
}

// lookFirewallBGP looks for rules that drop BGP.
func lookFirewallBGP(e *exam) {
	fw, ok := e.ruleset()
	if !ok {
		return
	}
	var list []asked
	e.eachPeer(func(peer *Peer, name string, own netip.Addr) {
		p := packet{proto: "tcp", sport: anyPort, dport: anyPort, state: "established", missing: no}
		in, out := p, p
		in.in, in.src, in.dst = name, peer.Address, own
		out.out, out.src, out.dst = name, own, peer.Address
		add := func(p packet, what string, incoming bool) {
			list = append(list, asked{p, what, incoming})
		}
		if !peer.Passive { // we connect to it
			in.sport, out.dport = int(peer.Port), int(peer.Port)
			add(in, fmt.Sprintf("BGP from %s (TCP from port %d)", peer.Address, peer.Port), true)
			out.state = "new"
			add(out, fmt.Sprintf("BGP to %s (TCP to port %d)", peer.Address, peer.Port), false)
		}
		if e.in.ListenPort != 0 { // it connects to us
			in.sport, out.dport = anyPort, anyPort
			in.dport, out.sport = int(e.in.ListenPort), int(e.in.ListenPort)
			in.state, out.state = "new", "established"
			add(in, fmt.Sprintf("BGP from %s (TCP to port %d)", peer.Address, e.in.ListenPort), true)
			add(out, fmt.Sprintf("BGP to %s (TCP from port %d)", peer.Address, e.in.ListenPort), false)
		}
	})
	e.dropsOf(fw, list, func(q *asked) Severity {
		// As long as one end can connect to the other, there is a session.
		if q.state == "new" && slices.ContainsFunc(list, func(o asked) bool {
			if o.state != "new" || o.in == q.in || o.src != q.dst {
				return false
			}
			certain, _, _, _ := fw.passing(&o)
			return !certain
		}) {
			return Warning
		}
		return Bad
	})
}

// lookFirewallBFD looks for rules that drop BFD.
func lookFirewallBFD(e *exam) {
	fw, ok := e.ruleset()
	if !ok {
		return
	}
	var list []asked
	e.eachPeer(func(peer *Peer, name string, own netip.Addr) {
		if !peer.BFD {
			return
		}
		port := portBFD
		if peer.Multihop {
			port = portMultihop
		}
		p := packet{proto: "udp", sport: anyPort, dport: port, state: "new", missing: no}
		in, out := p, p
		in.in, in.src, in.dst = name, peer.Address, own
		out.out, out.src, out.dst = name, own, peer.Address
		list = append(list,
			asked{in, fmt.Sprintf("BFD from %s (UDP to port %d)", peer.Address, port), true},
			asked{out, fmt.Sprintf("BFD to %s (UDP to port %d)", peer.Address, port), false})
	})
	e.dropsOf(fw, list, func(*asked) Severity { return Bad })
}

// eachPeer calls do for every peer of known address, with the interface and the
// own address by which it is reached.
func (e *exam) eachPeer(do func(peer *Peer, name string, own netip.Addr)) {
	h, ok := e.network()
	if !ok {
		return
	}
	for i := range e.in.Interfaces {
		n := &e.in.Interfaces[i]
		l := h.link(n.Name)
		for j := range n.Peers {
			peer := &n.Peers[j]
			if l == nil || !peer.Address.IsValid() {
				continue
			}
			if own := h.own(l.Attrs().Index, peer.Address.Is4()); own.IsValid() {
				do(peer, n.Name, own)
			}
		}
	}
	for i := range e.in.Peers {
		peer := &e.in.Peers[i]
		found, err := netlink.RouteGet(peer.Address.AsSlice())
		if err != nil || len(found) == 0 {
			continue
		}
		name := h.linkName(found[0].LinkIndex)
		if own := h.own(found[0].LinkIndex, peer.Address.Is4()); own.IsValid() {
			do(peer, name, own)
		}
	}
}
