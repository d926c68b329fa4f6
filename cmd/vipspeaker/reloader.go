package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/speaker"
	"vipspeaker/pkg/status"
)

// reloader reads the configuration file again when it is told to, and hands a
// good one on. What is in force after a bad file is what was before it.
type reloader struct {
	path string
	log  *slog.Logger
	// apply takes a configuration over; an error leaves the one before in force.
	apply func(*config.Config) error
	// publish tells what became of the file, record keeps that as an event.
	publish func(status.Config)
	record  func(status.Event)
	now     func() time.Time

	mu    sync.Mutex // one reload at a time
	state status.Config
}

// loaded notes the configuration that the daemon started with.
func (r *reloader) loaded() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = status.Config{Path: r.path, LoadedAt: r.now(), ReloadOK: true}
	r.publish(r.state)
}

// reload reads the file and returns what is wrong with it, one line for each
// mistake, or nothing when it is in force now.
func (r *reloader) reload(ctx context.Context) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	cfg, err := config.Load(r.path)
	if err == nil {
		err = r.apply(cfg)
	}
	r.state.ReloadedAt = r.now()
	if err != nil {
		mistakes := mistakesOf(err)
		r.state.ReloadOK = false
		r.state.ReloadsError++
		r.state.Error = summary(mistakes)
		r.publish(r.state)
		r.tell(ctx, slog.LevelError, "configuration refused, the one before it stays in force", r.state.Error,
			"file", r.path, "mistakes", len(mistakes), "first", mistakes[0])
		return mistakes
	}
	r.state.LoadedAt, r.state.ReloadOK, r.state.Error = r.state.ReloadedAt, true, ""
	r.state.ReloadsOK++
	r.publish(r.state)
	r.tell(ctx, slog.LevelInfo, "configuration reloaded", "",
		"file", r.path, "interfaces", len(cfg.Interfaces), "vips", len(cfg.VIPs))
	return nil
}

// tell logs and records what became of the file.
func (r *reloader) tell(ctx context.Context, level slog.Level, message, cause string, attrs ...any) {
	t := speaker.Transition{
		Level: level, Attrs: attrs,
		Event: status.Event{Kind: "config", Subject: r.path, Message: message, Cause: cause},
	}
	t.Tell(ctx, r.log, r.record, r.now())
}

// mistakesOf returns one line for each thing that is wrong, at least one.
func mistakesOf(err error) []string {
	if list, ok := errors.AsType[*config.Errors](err); ok {
		return strings.Split(list.Error(), "\n")
	}
	return []string{err.Error()}
}

// summary puts mistakes into one line for the status.
func summary(mistakes []string) string {
	if len(mistakes) == 1 {
		return mistakes[0]
	}
	return mistakes[0] + " (and " + count(len(mistakes)-1, "more mistake") + ")"
}
