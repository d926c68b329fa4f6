package health

import "time"

// judge returns the result after one more run. Bad news acts at once where
// nothing good is known: the first failure of an Unknown check is a verdict.
// Good news waits for Rise passes in a row, at the start and after a verdict
// expired.
func (s *Spec) judge(r Result, failure string, now time.Time) Result {
	before := r.Verdict
	if r.expired(now) {
		r.Verdict, r.Streak = Unknown, 0
	}
	if r.Streak > 0 && (r.Reason == "") == (failure == "") {
		r.Streak++
	} else {
		r.Streak = 1
	}
	switch {
	case failure == "" && r.Streak >= s.Rise:
		r.Verdict = Healthy
	case failure != "" && r.Verdict == Healthy && r.Streak >= s.Fall:
		r.Verdict = Unhealthy
		r.Downs++
	case failure != "" && r.Verdict == Unknown:
		r.Verdict = Unhealthy
	}
	if r.Verdict != before {
		r.Since = now
	}
	r.Reason, r.Checked = failure, now
	if failure == "" {
		r.Passed = now
	}
	r.Expires = s.expires(now)
	return r
}

// leastLife is how long a verdict counts at least. Runs are ended by their timeout, so a
// verdict expires only when none is started any more; a machine that stands still for a
// moment must not look like that (docs/adr/0014).
const leastLife = 2 * time.Second

// expires is until when the result of a run that ended then counts.
func (s *Spec) expires(checked time.Time) time.Time {
	return checked.Add(max(3*s.Interval+s.Timeout, leastLife))
}

// expired tells whether there was a verdict and it ran out.
func (r *Result) expired(now time.Time) bool {
	return !r.Checked.IsZero() && now.After(r.Expires)
}
