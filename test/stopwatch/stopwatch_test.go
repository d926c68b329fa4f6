package stopwatch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"vipspeaker/test/stopwatch"
)

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := stopwatch.Start(t)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := w.Elapsed(); got != time.Second {
			t.Errorf("%s of 1 s", got)
		}
	})
}
