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

// Watcher is a Checker that hears of changes between its runs.
type Watcher interface {
	Checker
	// Watch calls again whenever the outcome may have become another than that
	// of the last run, until the context ends; also when it has begun to listen,
	// since what changed before that is not told. Again never blocks, may be
	// called by any goroutine, and too often: the check is run then, at most once
	// more in 5 ms, and its result counts as any other. Watch runs beside Check.
	// One that returns early or panics is started again, later each time.
	Watch(ctx context.Context, again func())
}

// Spec is one wanted check and its schedule.
type Spec struct {
	// ID identifies the check.
	ID string
	// Name is what the log calls it, such as "vipa/web"; ID if empty.
	Name string
	// Key is a text that changes when what the check asks for changed. The
	// schedule is no part of it. A Spec takes the verdict of a check over that
	// was there before Set and has an equal Key, whatever the ID of that.
	Key     string
	Kind    string // "http", "tcp", "exec", "dns", "grpc", "icmp", "listen", "neighbour"
	Checker Checker
	// Interval is the time between starts of two runs, at least 10 ms; Timeout
	// bounds one run.
	Interval, Timeout time.Duration
	// FastInterval is the interval while results disagree with the verdict, so
	// that Rise and Fall are reached sooner; at least 10 ms, or 0 for Interval.
	FastInterval time.Duration
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
	// Expires is Checked + 3 × interval + timeout, or + 2 s if that is later:
	// afterwards the verdict must be taken as stale.
	Expires time.Time
	// Streak counts runs in a row of equal outcomes, for "2 of 3".
	Streak int
	// Passed is when the last run ended that passed; zero if none did.
	Passed time.Time
	// Downs is how often the verdict went from Healthy to Unhealthy.
	Downs uint64
}

// Results is an immutable snapshot by check ID. Its one writer is Manager.
type Results map[string]Result
