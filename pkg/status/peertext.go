package status

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

func writePeers(b *strings.Builder, s *Status, style Style, now time.Time) {
	t := table{lines: shortened}
	t.header("PEER", "INTERFACE", "AS", "STATE", "SINCE", "BFD", "SENT", "RECEIVED", "LAST ERROR")
	for i := range s.Peers {
		p := &s.Peers[i]
		state := cell{p.State, bad, true}
		if p.State == established {
			state.tone = good
		}
		t.add(text(p.Name()), text(p.Interface), text(p.as()), state,
			text(age(now, p.Since)), bfdCell(p.BFD), text(strconv.Itoa(p.Announced)), text(strconv.FormatUint(p.Received, 10)),
			text(p.troubles(s.iface(p.Interface), now)))
	}
	if len(s.Peers) > 0 {
		b.WriteByte('\n')
		t.write(b, style)
	}
}

// as is the peer's AS number, or a word for one that may be any.
func (p *Peer) as() string {
	if p.ASN == 0 {
		return "external"
	}
	return strconv.FormatUint(uint64(p.ASN), 10)
}

func bfdCell(b *BFD) cell {
	if b == nil {
		return cell{"-", plain, false}
	}
	switch {
	case b.State == bfdUp:
		return cell{b.State, good, true}
	case b.failed():
		return cell{b.State, bad, true}
	default:
		return cell{b.State, weak, true}
	}
}

// troubles are those of the session and of BFD. What BFD has now matters more
// than what the session has overcome.
func (p *Peer) troubles(n *Interface, now time.Time) string {
	news := p.BFD.trouble()
	if news != "" && p.overcame() {
		return news
	}
	return join("; ", p.trouble(n, now), news)
}

// lastError is LastError, or no more than the layer for what fails on its
// interface: that is told of the interface, with its age as of now. The
// interface may be nil.
func (p *Peer) lastError(n *Interface) string {
	if n != nil && n.failing() {
		if layer := "interface " + n.Name + ": " + string(n.Reason); strings.HasPrefix(p.LastError, layer+": ") {
			return layer
		}
	}
	return p.LastError
}

// overcame tells that the session is up and was not when its last error came.
func (p *Peer) overcame() bool {
	return p.State == established && !p.LastErrorAt.After(p.Since)
}

// trouble is the last error with its age. One that the session has overcome
// says so: it is history, not news.
func (p *Peer) trouble(n *Interface, now time.Time) string {
	text := p.lastError(n)
	if text == "" {
		return ""
	}
	if !p.LastErrorAt.IsZero() {
		text = fmt.Sprintf("%s (%s ago)", text, age(now, p.LastErrorAt))
	}
	if p.overcame() {
		return "before: " + text
	}
	return text
}
