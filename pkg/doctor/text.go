package doctor

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Fixed {
		for _, did := range f.Did {
			fmt.Fprintf(&b, "fixed    %s: %s\n", f.Condition, did)
		}
		if f.Undo != "" && len(f.Did) > 0 {
			fmt.Fprintf(&b, "  undo:  %s\n", indented(f.Undo))
		}
		if f.Error != "" {
			fmt.Fprintf(&b, "failed   %s: %s\n", f.Condition, f.Error)
		}
	}
	for _, f := range r.All() {
		fmt.Fprintf(&b, "%-8s %s: %s\n", f.Severity, f.Condition, f.Found)
		fmt.Fprintf(&b, "  why:   %s\n", f.Why)
		fmt.Fprintf(&b, "  fix:   %s\n", indented(f.Command))
		fmt.Fprintf(&b, "         (%s)\n", f.how())
	}
	for i, u := range r.NotSeen {
		if !slices.ContainsFunc(r.NotSeen[:i], func(o Unseen) bool { return o.Reason == u.Reason }) {
			fmt.Fprintf(&b, "not seen %s: %s\n", r.unseenFor(u.Reason), u.Reason)
		}
	}
	b.WriteString(r.summary() + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// unseenFor are the conditions that could not be looked for, for one reason.
func (r *Report) unseenFor(reason string) string {
	var names []string
	for _, u := range r.NotSeen {
		if u.Reason == reason {
			names = append(names, u.Condition)
		}
	}
	return strings.Join(names, ", ")
}

// how tells who can do what the command does.
func (f *Finding) how() string {
	switch f.Remedy {
	case Fixes:
		return "vipspeaker doctor --fix does it"
	case FixesName:
		return "vipspeaker doctor --fix " + f.Condition + " does it"
	default:
		return "by hand"
	}
}

func (r *Report) summary() string {
	count := map[Severity]int{}
	for _, f := range r.All() {
		count[f.Severity]++
	}
	some := func(s Severity) string {
		if count[s] == 1 {
			return "1 " + string(s)
		}
		return fmt.Sprintf("%d %ss", count[s], s)
	}
	switch {
	case len(r.Findings) > 0:
		return fmt.Sprintf("%d bad, %s, %s", count[Bad], some(Warning), some(Note))
	case count[Note] > 0:
		return "nothing bad; " + some(Note)
	default:
		return "nothing found"
	}
}

func indented(s string) string { return strings.ReplaceAll(s, "\n", "\n         ") }
