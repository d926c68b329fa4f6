package speaker

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"
)

// shortReason is how long an error may be that is shown with a VIP, in bytes.
const shortReason = 200

// failed notes what went wrong in a kernel call. All calls of a pass look at the
// same things, so what one of them said the others need not repeat.
func (l *Loop) failed(name string, err error) {
	var texts []string
	for _, e := range parts(err) {
		texts = append(texts, e.Error())
		if !slices.Contains(l.said, e.Error()) {
			l.errs = append(l.errs, fmt.Errorf("%s: %w", name, e))
		}
	}
	l.said = append(l.said, texts...)
	if name == bindCall {
		l.bindErrs = texts
	}
}

// parts are the errors that a call joined and gave a common beginning, or the
// error itself.
func parts(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := errors.Unwrap(err).(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// whyUnbound tells why the kernel does not hold a VIP, with what the last Bind
// said of the VIP or of the device.
func (p *planner) whyUnbound(prefix netip.Prefix) string {
	why, asked := p.whys[prefix]
	if asked {
		return why
	}
	if p.whys == nil {
		p.whys, p.saidOf = map[netip.Prefix]string{}, p.said()
	}
	why = "the kernel does not hold it"
	said := p.saidOf[prefix.Addr().String()]
	if said == "" {
		said = p.saidOf[p.device()]
	}
	if _, short, ok := strings.Cut(said, " is not bound: "); ok {
		said = short
	}
	why = joinNonEmpty(": ", why, said)
	p.whys[prefix] = why
	return why
}

// device names the virtual interface as errors do.
func (p *planner) device() string { return "device " + p.in.Config.VirtualInterface.Name }

// said is the first short error of the last Bind that names an address, or the
// device, by its name. Each error is read once: there can be one for each VIP.
func (p *planner) said() map[string]string {
	first := map[string]string{}
	note := func(name, said string) {
		if first[name] == "" {
			first[name] = said
		}
	}
	for _, said := range p.in.BindErrors {
		if len(said) > shortReason {
			continue
		}
		for word := range strings.FieldsFuncSeq(said, func(c rune) bool { return !inAddress(c) }) {
			// A sentence may go on with a colon or end with a full stop.
			for ; strings.ContainsAny(word, ".:"); word = word[:len(word)-1] {
				note(word, said)
				if !strings.HasSuffix(word, ".") && !strings.HasSuffix(word, ":") {
					break
				}
			}
		}
		if mentions(said, p.device()) {
			note(p.device(), said)
		}
	}
	return first
}

// inAddress tells whether an address may have the character in it, or a word.
func inAddress(c rune) bool {
	return c == '.' || c == ':' || c < utf8.RuneSelf && inWord(byte(c)) //nolint:gosec // ASCII
}

// mentions tells whether a text has a word, not as a part of a longer one:
// 10.68.6.1 is not in 10.68.6.11, and fd68::1 not in fd68::1:2.
func mentions(text, word string) bool {
	for at := 0; ; {
		i := strings.Index(text[at:], word)
		if i < 0 {
			return false
		}
		begin, end := at+i, at+i+len(word)
		before := begin > 0 && (inWord(text[begin-1]) || strings.IndexByte(".:", text[begin-1]) >= 0)
		after := end < len(text) && inWord(text[end]) ||
			end+1 < len(text) && strings.IndexByte(".:", text[end]) >= 0 && inWord(text[end+1])
		if !before && !after {
			return true
		}
		at = end
	}
}

func inWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
