// Package health runs service checks on their own schedules and gives verdicts
// with a reason, which expire.
//
// Each check runs alone: one that hangs delays no other. The package never
// decides what a verdict means for a VIP.
package health

import (
	"context"
	"time"
)

// Checker is one kind of check against one target. Check returns nil for a
// pass, else an error whose text tells an operator what was wrong. The context
// carries the deadline; a Checker must return when it ends and must leave no
// goroutine or process behind.
type Checker interface {
	Check(ctx context.Context) error
}

// Spec is one wanted check and its schedule.
type Spec struct {
	// ID identifies the check; a Spec with the same ID and an equal Key keeps its
	// verdict over Set.
	ID string
	// Key is a text that changes when what the check asks for changed. The
	// schedule is no part of it.
	Key     string
	Kind    string // "http", "tcp", "exec"
	Checker Checker
	// Interval is the time between starts of two runs, Timeout bounds one run.
	Interval, Timeout time.Duration
	// Rise and Fall are how many results in a row change the verdict, at least 1.
	Rise, Fall int
}

// Verdict is what is known of a check.
type Verdict string

// The verdicts. Unknown is not healthy.
const (
	Unknown   Verdict = "unknown"
	Healthy   Verdict = "healthy"
	Unhealthy Verdict = "unhealthy"
)

// Result is the latest verdict of one check.
type Result struct {
	ID      string
	Kind    string
	Verdict Verdict
	// Reason is the error of the last run, empty after a pass.
	Reason string
	// Since is when the verdict was reached, Checked when the last run ended.
	Since, Checked time.Time
	Duration       time.Duration // of the last run
	// Expires is Checked + 3 × interval + timeout: afterwards the verdict must
	// be taken as stale.
	Expires time.Time
	// Run counts in a row of equal outcomes, for "2 of 3".
	Streak int
}

// Results is an immutable snapshot by check ID. Its one writer is Manager.
type Results map[string]Result
