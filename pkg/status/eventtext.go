package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// eventTime is RFC 3339 with milliseconds.
const eventTime = "2006-01-02T15:04:05.000Z07:00"

// EventWriter writes events as text. Its columns do not become narrower from
// one call to the next, so that what comes later stays below what came before.
type EventWriter struct {
	out   io.Writer
	style Style
	table table
}

// NewEventWriter returns a writer of events to out.
func NewEventWriter(out io.Writer, style Style) *EventWriter {
	return &EventWriter{out: out, style: style}
}

// Write writes one aligned line for each event: when, level, subject, what
// happened, from which state to which, and why.
func (w *EventWriter) Write(events []Event) error {
	w.table.rows = nil
	for i := range events {
		e := &events[i]
		level := cell{e.Level, plain, false}
		if e.Level == LevelWarn {
			level.tone = bad
		}
		w.table.add(text(e.Time.Format(eventTime)), level, text(e.where()), text(e.Message), text(e.change(w.style)), text(e.Cause))
	}
	var b strings.Builder
	w.table.write(&b, w.style)
	_, err := io.WriteString(w.out, b.String())
	return err
}

// WriteEvents writes one aligned line for each event, see EventWriter.
func WriteEvents(w io.Writer, events []Event, style Style) error {
	return NewEventWriter(w, style).Write(events)
}

// where names the subject and where it is: "10.68.1.2 on en1", "http of web".
func (e *Event) where() string {
	where := e.Subject
	if e.VIP != "" && e.VIP != e.Subject {
		where = join(" of ", where, e.VIP)
	}
	if e.Interface != "" && e.Interface != e.Subject {
		where = join(" on ", where, e.Interface)
	}
	return where
}

func (e *Event) change(style Style) string {
	switch {
	case e.From == "" && e.To == "":
		return ""
	case style.Marks:
		return strings.TrimSpace(e.From + " → " + e.To)
	default:
		return strings.TrimSpace(e.From + " -> " + e.To)
	}
}

// About tells whether the event is of that interface and of that VIP; an empty
// name stands for all.
func (e *Event) About(iface, vip string) bool {
	of := func(name, kind, field string) bool {
		return name == "" || field == name || e.Kind == kind && e.Subject == name
	}
	return of(iface, "interface", e.Interface) && of(vip, "vip", e.VIP)
}

// WriteJSON writes v, a Status or an Explanation, as indented JSON.
func WriteJSON(w io.Writer, v any) error { return writeJSON(w, v, "  ") }

// WriteJSONLine writes v, an Event or one picture of many, as JSON in one line.
func WriteJSONLine(w io.Writer, v any) error { return writeJSON(w, v, "") }

// writeJSON writes JSON that cannot drive a terminal: what is not printable in
// its texts, which may come from a router, is escaped. JSON itself asks for that
// only below U+0020, and a C1 control is as good as an escape sequence.
func writeJSON(w io.Writer, v any, indent string) error {
	var raw, b bytes.Buffer
	e := json.NewEncoder(&raw)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return err
	}
	for rest := raw.Bytes(); len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == '\n' || !notPrintable(r):
			b.Write(rest[:size])
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		rest = rest[size:]
	}
	_, err := w.Write(b.Bytes())
	return err
}
