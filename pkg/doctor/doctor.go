// Package doctor looks for conditions of the host and its network that break
// what the daemon promises, tells why and what cures them, and cures some.
//
// It only reads, and sends a few probes; Fix alone changes the host, and only
// what its findings say. It needs no daemon. What it may not look at for lack of
// a privilege or a program it says instead of guessing.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Severity grades a finding.
type Severity string

// The severities.
const (
	Bad     Severity = "bad"     // a promise is broken
	Warning Severity = "warning" // a promise breaks when something else happens
	Note    Severity = "note"    // nothing breaks, but it could be better
)

// Remedy tells what --fix does about a finding.
type Remedy string

// The remedies.
const (
	Fixes     Remedy = "fix"   // --fix cures it
	FixesName Remedy = "named" // --fix cures it when the condition is named
	ByHand    Remedy = "hand"  // --fix leaves it alone
)

// Finding is one condition that was found.
type Finding struct {
	// Condition is its name in the table, Subject what of the host it is about.
	Condition string   `json:"condition"`
	Subject   string   `json:"subject"`
	Severity  Severity `json:"severity"`
	// Found is what was seen, with its values; Why is what it breaks.
	Found string `json:"found"`
	Why   string `json:"why"`
	// Command cures it, as lines for a shell; where no command can, it says what
	// to do, as a comment.
	Command string `json:"command"`
	// Undo takes back what Command did; empty where that is plain.
	Undo   string `json:"undo,omitempty"`
	Remedy Remedy `json:"remedy"`

	// fix does what Command says and tells what it did.
	fix func(context.Context) ([]string, error)
}

// Text is the finding in one line.
func (f *Finding) Text() string { return f.Found + ": " + f.Why }

// Unseen is a condition that could not be looked for.
type Unseen struct {
	Condition string `json:"condition"`
	Reason    string `json:"reason"`
}

// Fixed is what was done about a finding.
type Fixed struct {
	Condition string   `json:"condition"`
	Subject   string   `json:"subject"`
	Did       []string `json:"did"`
	Undo      string   `json:"undo,omitempty"`
	Error     string   `json:"error,omitempty"`
}

// Report is the result of an examination. Its lists are never nil.
type Report struct {
	Time time.Time `json:"time"`
	// Daemon tells whether a daemon runs.
	Daemon bool `json:"daemon"`
	// Findings are bad or warnings, the worst first; Notes are the others.
	Findings []Finding `json:"findings"`
	Notes    []Finding `json:"notes"`
	NotSeen  []Unseen  `json:"not_seen"`
	// Fixed is what Fix has done; the findings are those of a second look.
	Fixed []Fixed `json:"fixed"`
}

// Good tells whether nothing was found, notes apart, and nothing that was to be cured
// was not.
func (r *Report) Good() bool {
	return len(r.Findings) == 0 && !slices.ContainsFunc(r.Fixed, func(f Fixed) bool { return f.Error != "" })
}

// All are the findings and the notes.
func (r *Report) All() []Finding { return slices.Concat(r.Findings, r.Notes) }

// exam is one examination.
type exam struct {
	ctx context.Context //nolint:containedctx // it lives as long as the call
	in  *Input
	// now is the condition that is looked for.
	now    *Condition
	report *Report

	host    *host
	hostErr error
	routed  *routeList
	fw      *firewall
}

// Examine looks for the named conditions, all of them if names is empty. Unknown
// names are an error.
func Examine(ctx context.Context, in *Input, names ...string) (*Report, error) {
	list, err := named(names)
	if err != nil {
		return nil, err
	}
	return examine(ctx, in, list), nil
}

func named(names []string) ([]Condition, error) {
	all := Conditions()
	if len(names) == 0 {
		return all, nil
	}
	var list []Condition
	for at, name := range names {
		if slices.Contains(names[:at], name) {
			continue
		}
		i := slices.IndexFunc(all, func(c Condition) bool { return c.Name == name })
		if i < 0 {
			known := make([]string, len(all))
			for j := range all {
				known[j] = all[j].Name
			}
			return nil, fmt.Errorf("no condition is called %q; there are %s", name, strings.Join(known, ", "))
		}
		list = append(list, all[i])
	}
	return list, nil
}

func examine(ctx context.Context, in *Input, list []Condition) *Report {
	e := &exam{ctx: ctx, in: in, report: &Report{
		Time: time.Now(), Daemon: in.Daemon != nil,
		Findings: []Finding{}, Notes: []Finding{}, NotSeen: []Unseen{}, Fixed: []Fixed{},
	}}
	for i := range list {
		c := list[i] // who looks may say more of it
		e.now = &c
		if in.Inside && c.own {
			continue // the daemon tells it itself
		}
		c.look(e)
	}
	slices.SortStableFunc(e.report.Findings, func(a, b Finding) int { return rank(a.Severity) - rank(b.Severity) })
	return e.report
}

func rank(s Severity) int { return slices.Index([]Severity{Bad, Warning, Note}, s) }

// Fix examines, cures what can be cured and looks again. Findings whose remedy
// is FixesName are cured only if their condition is named.
func Fix(ctx context.Context, in *Input, names ...string) (*Report, error) {
	list, err := named(names)
	if err != nil {
		return nil, err
	}
	first := examine(ctx, in, list)
	done := []Fixed{}
	for _, f := range first.All() {
		if f.fix == nil || f.Remedy == ByHand || f.Remedy == FixesName && !slices.Contains(names, f.Condition) {
			continue
		}
		did, err := f.fix(ctx)
		one := Fixed{Condition: f.Condition, Subject: f.Subject, Did: did, Undo: f.Undo}
		if one.Did == nil {
			one.Did = []string{}
		}
		if err != nil {
			one.Error = err.Error()
		}
		done = append(done, one)
	}
	if len(done) == 0 {
		return first, nil
	}
	second := examine(ctx, in, list)
	second.Fixed = done
	return second, nil
}

// find reports a finding; what the condition says of itself is filled in.
func (e *exam) find(f *Finding) {
	f.Condition = e.now.Name
	if f.Severity == "" {
		f.Severity = e.now.Severity
	}
	if f.Why == "" {
		f.Why = e.now.Effect
	}
	if f.Remedy == "" {
		f.Remedy = ByHand
		if f.fix != nil {
			f.Remedy = e.now.Remedy
		}
	}
	if f.Severity == Note {
		e.report.Notes = append(e.report.Notes, *f)
		return
	}
	e.report.Findings = append(e.report.Findings, *f)
}

// cannot reports that the condition could not be looked for.
func (e *exam) cannot(format string, args ...any) {
	u := Unseen{Condition: e.now.Name, Reason: fmt.Sprintf(format, args...)}
	if !slices.Contains(e.report.NotSeen, u) {
		e.report.NotSeen = append(e.report.NotSeen, u)
	}
}

// Known returns an error if a name is not that of a condition.
func Known(names []string) error {
	_, err := named(names)
	return err
}
