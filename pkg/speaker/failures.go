package speaker

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
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
	const text = "the kernel does not hold it"
	for _, word := range []string{prefix.Addr().String(), "device " + p.in.Config.VirtualInterface.Name} {
		for _, said := range p.in.BindErrors {
			if len(said) > shortReason || !mentions(said, word) {
				continue
			}
			if _, why, ok := strings.Cut(said, " is not bound: "); ok {
				said = why
			}
			return text + ": " + said
		}
	}
	return text
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
