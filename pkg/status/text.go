package status

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// established is the one state of a session that carries routes
// (RFC 4271 section 8.2.2).
const established = "Established"

// stale is from when on a picture is called old: the loop makes one at least
// every 30 s.
const stale = 35 * time.Second

// How many lines of a terminal a text at the end of a row may take: shortened in
// most tables, for `status VIP` and JSON have all of it.
const (
	shortened = 3
	whole     = -1 // any number
)

// WriteText writes the whole picture as tables: VIPs by interfaces, what is
// withheld or degraded and why, what flaps, interfaces and peers. Ages are counted up to now.
func WriteText(w io.Writer, s *Status, style Style, now time.Time) error {
	var b strings.Builder
	writeHeader(&b, s, style, now)
	writeVIPs(&b, s, style)
	writeWithheld(&b, s, style, now)
	writeDegraded(&b, s, style)
	writeFlapping(&b, s, style)
	writeDrains(&b, s, style, now)
	writeInterfaces(&b, s, style, now)
	writePeers(&b, s, style, now)
	writeEgress(&b, s, style)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeHeader writes one line about the daemon and one for each condition that
// an operator must know of.
func writeHeader(b *strings.Builder, s *Status, style Style, now time.Time) {
	fmt.Fprintf(b, "%s  AS %d  router id %s  up %s  ",
		style.paint(clean("vipspeaker "+s.Version), head), s.ASN, address(s.RouterID), age(now, s.StartedAt))
	if s.Config.Error == "" {
		fmt.Fprintf(b, "config %s\n", style.paint("ok", good))
	} else {
		fmt.Fprintf(b, "config %s\n", style.paint("refused", bad))
	}
	notes := table{lines: whole}
	// An error that joins several has one line for each, below each other.
	note := func(t tone, word, what string) {
		first := cell{word, t, true}
		for line := range strings.SplitSeq(strings.TrimSpace(what), "\n") {
			notes.add(first, text(line))
			first = text("")
		}
	}
	if s.Stopping {
		note(weak, "stopping", "the daemon is shutting down")
	}
	if now.Sub(s.Time) > stale {
		note(bad, "stale", "the last pass ended "+age(now, s.Time)+" ago")
	}
	if s.Config.Error != "" {
		note(bad, "config", fmt.Sprintf("reload %s ago: %s", age(now, s.Config.ReloadedAt), s.Config.Error))
	}
	if s.TopLevel != nil && s.TopLevel.trouble() != "" {
		note(bad, "speaker", TopLevel+": "+s.TopLevel.trouble())
	}
	if s.Passes.LastError != "" {
		note(bad, "pass", s.Passes.LastError)
	}
	for _, p := range s.Kernel.Problems {
		note(bad, "problem", p)
	}
	for i := range s.Interfaces {
		n := &s.Interfaces[i]
		t := bad
		if n.Usable { // it outlives them
			t = weak
		}
		for _, f := range n.Failures {
			if !n.gone() {
				note(t, "failure", fmt.Sprintf("interface %s: %s: %s", n.Name, f.reason(), s.text(n, f, now)))
			}
		}
	}
	notes.write(b, style)
}

// writeVIPs writes the matrix: what holds a VIP and which interface carries it.
func writeVIPs(b *strings.Builder, s *Status, style Style) {
	names := make([]string, len(s.Interfaces))
	for i := range s.Interfaces {
		names[i] = s.Interfaces[i].Name
	}
	if s.TopLevel != nil {
		names = append(names, TopLevel)
	}
	var t table
	t.header(append([]string{"VIP", "ADDRESS", "BOUND", "CHECKS", "SOURCE"}, names...)...)
	for i := range s.VIPs {
		v := &s.VIPs[i]
		row := []cell{text(v.Name), text(v.Prefix.String()), yesNo(v.Bound), checksCell(v), sourceCell(v)}
		for _, name := range names {
			row = append(row, pathCell(v, name))
		}
		t.add(row...)
	}
	b.WriteByte('\n')
	if len(s.VIPs) == 0 {
		b.WriteString("no VIPs are configured\n")
		return
	}
	t.write(b, style)
}

func checksCell(v *VIP) cell {
	if len(v.Checks) == 0 {
		return cell{"-", plain, false}
	}
	healthy := v.healthy()
	c := cell{fmt.Sprintf("%d/%d", healthy, len(v.Checks)), good, true}
	switch {
	case !v.enough(healthy):
		c.tone = bad
	case healthy < len(v.Checks):
		c.tone = weak
	}
	return c
}

// healthy counts the checks that pass.
func (v *VIP) healthy() int {
	n := 0
	for i := range v.Checks {
		if v.Checks[i].Verdict == "healthy" {
			n++
		}
	}
	return n
}

// any tells that one of several checks is enough.
func (v *VIP) any() bool { return v.ChecksMode == "any" }

// enough tells whether that many healthy checks are enough.
func (v *VIP) enough(healthy int) bool {
	return healthy == len(v.Checks) || v.any() && healthy > 0
}

func sourceCell(v *VIP) cell {
	switch {
	case !v.isSource():
		return cell{"-", plain, false}
	case len(v.Source) == 0:
		return cell{"none", bad, true}
	default:
		return cell{strings.Join(v.Source, ","), good, true}
	}
}

// pathCell tells in one word what a VIP is on an interface.
func pathCell(v *VIP, name string) cell {
	for i := range v.Interfaces {
		on := &v.Interfaces[i]
		switch {
		case on.Interface != name:
			continue
		case on.Announced && !on.Wanted:
			return cell{"withdrawing", weak, true}
		case on.Announced && v.Drain != nil:
			return cell{"draining", weak, true}
		case on.Announced && v.Degraded:
			return cell{"degraded", weak, true}
		case on.Announced:
			return cell{"announced", good, true}
		case on.Reason == CheckUnknown || on.Reason == Drained || on.Reason == Standby:
			return cell{string(on.Reason), weak, true}
		case on.Reason != "":
			return cell{string(on.Reason), bad, true}
		default:
			return cell{"announcing", weak, true}
		}
	}
	return cell{"-", plain, false}
}

// writeWithheld writes one line with the detail for each VIP that is announced
// nowhere, and for each interface on which an announced VIP is not.
func writeWithheld(b *strings.Builder, s *Status, style Style, now time.Time) {
	short := inShort(now)
	t := table{lines: shortened}
	t.header("WITHHELD", "ON", "REASON", "DETAIL")
	for i := range s.VIPs {
		v := &s.VIPs[i]
		if !v.Announced && v.Reason != "" {
			t.add(text(v.Name), text("all"), cell{string(v.Reason), bad, false}, text(s.detail(v, short)))
			continue
		}
		for j := range v.Interfaces {
			on := &v.Interfaces[j]
			if !on.Announced && on.Reason != "" {
				t.add(text(v.Name), text(on.Interface), cell{string(on.Reason), bad, false}, text(s.detailOn(on, short)))
			}
		}
	}
	if len(t.rows) > 1 {
		b.WriteByte('\n')
		t.write(b, style)
	}
}

// writeDegraded writes one line with the cause for each VIP that is announced,
// or would be, although its checks fail.
func writeDegraded(b *strings.Builder, s *Status, style Style) {
	t := table{lines: shortened}
	t.header("DEGRADED", "DETAIL")
	for i := range s.VIPs {
		if v := &s.VIPs[i]; v.Degraded {
			t.add(cell{v.Name, weak, false}, text(v.degradedBy()))
		}
	}
	if len(t.rows) > 1 {
		b.WriteByte('\n')
		t.write(b, style)
	}
}

// degradedBy says why a VIP is degraded: what its checks say, its flaps, or else
// its detail.
func (v *VIP) degradedBy() string {
	var texts []string
	for i := range v.Checks {
		if c := &v.Checks[i]; c.Verdict != "healthy" {
			texts = append(texts, join(": ", "check "+c.Name, cmp.Or(c.Reason, c.Verdict)))
		}
	}
	if v.Penalty.Suppressed {
		texts = append(texts, v.Penalty.Text())
	}
	if len(texts) == 0 {
		return strings.TrimPrefix(v.Detail, "degraded: ")
	}
	return strings.Join(texts, "; ")
}

// writeFlapping writes one line for each VIP and each interface with a penalty.
func writeFlapping(b *strings.Builder, s *Status, style Style) {
	t := table{lines: whole}
	t.header("FLAPPING", "KIND", "DAMPING")
	add := func(name, kind string, p Penalty) {
		shade := weak
		if p.Suppressed {
			shade = bad
		}
		if what := p.Text(); what != "" {
			t.add(text(name), text(kind), cell{what, shade, false})
		}
	}
	for i := range s.VIPs {
		add(s.VIPs[i].Name, "vip", s.VIPs[i].Penalty)
	}
	for i := range s.Interfaces {
		add(s.Interfaces[i].Name, "interface", s.Interfaces[i].Penalty)
	}
	if len(t.rows) > 1 {
		b.WriteByte('\n')
		t.write(b, style)
	}
}

// mainAddresses are those that tell the interface from others: link-local ones,
// which are long and on every interface, only if it has no other.
func (n *Interface) mainAddresses() []netip.Prefix {
	list := slices.DeleteFunc(slices.Clone(n.Addresses), func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
	if len(list) == 0 {
		return n.Addresses
	}
	return list
}

func writeInterfaces(b *strings.Builder, s *Status, style Style, now time.Time) {
	t := table{lines: shortened}
	t.header("INTERFACE", "USABLE", "SINCE", "ADDRESSES", "SPEAKER", "RESTARTS", "WHY")
	for i := range s.Interfaces {
		n := &s.Interfaces[i]
		speaker := cell{n.Speaker.Phase, plain, false}
		if n.Speaker.Phase != "running" {
			speaker.tone = weak
		}
		why := join("; ", join(": ", string(n.Reason), n.cause(inShort(now))), n.Speaker.trouble())
		t.add(text(n.Name), yesNo(n.Usable), text(age(now, n.Since)), text(joined(n.mainAddresses())),
			speaker, text(strconv.Itoa(n.Speaker.Restarts)), text(why))
	}
	if len(s.Interfaces) > 0 {
		b.WriteByte('\n')
		t.write(b, style)
	}
}

// address writes an address, "-" for the zero one.
func address(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

// join joins the parts that are not empty.
func join(sep string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), sep)
}

// fewNames bounds the names in an error: it is for somebody who mistyped one.
const fewNames = 10

// Names lists names for a message, the first ones if there are many.
func Names(names []string) string {
	if more := len(names) - fewNames; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:fewNames], ", "), more)
	}
	return strings.Join(names, ", ")
}

// joined lists values, "-" for none.
func joined[T fmt.Stringer](values []T) string {
	if len(values) == 0 {
		return "-"
	}
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.String()
	}
	return strings.Join(texts, ",")
}
