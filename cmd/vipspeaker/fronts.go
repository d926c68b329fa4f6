package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"vipspeaker/internal/draft"
	"vipspeaker/pkg/status"
)

// frontsName is the file in the state directory with the VIPs that this host
// announces with their rank, of those that wait when they come back
// (role.failback). A process that takes over from one that has just ended goes on
// with them; one that starts later, after a drain or after a reboot, comes back.
const frontsName = "fronts"

// frontsAge is how old the file may be, beside the time for which routers keep
// routes: it is written with every pass, and those are at most 30 s apart.
const frontsAge = 35 * time.Second

// readFronts returns what a former process announced with its rank until just
// now.
func readFronts(stateDir string, restartTime time.Duration, now time.Time) ([]netip.Prefix, error) {
	path := filepath.Join(stateDir, frontsName)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path) //nolint:gosec // the operator names the directory
	}
	if err != nil {
		return nil, fmt.Errorf("roles of a former process: %w", err)
	}
	if now.Sub(info.ModTime()) > frontsAge+restartTime {
		return nil, nil
	}
	var list []netip.Prefix
	for line := range strings.FieldsSeq(string(data)) {
		// A line that a crash cut short is a VIP that comes back.
		if p, err := netip.ParsePrefix(line); err == nil {
			list = append(list, p)
		}
	}
	return list, nil
}

// fronts are the VIPs of a picture that belong into the file.
func fronts(s *status.Status) []netip.Prefix {
	var list []netip.Prefix
	for i := range s.VIPs {
		v := &s.VIPs[i]
		if r := v.Role; r != nil && r.Rank > 0 && r.Failback != "immediate" && v.Announced && !r.Behind {
			list = append(list, v.Prefix)
		}
	}
	return list
}

// writeFronts keeps the VIPs for the next process. Without any there is no file.
func writeFronts(stateDir string, list []netip.Prefix) error {
	if len(list) == 0 {
		return forgetFronts(stateDir)
	}
	lines := make([]string, len(list))
	for i, p := range list {
		lines[i] = p.String() + "\n"
	}
	path := filepath.Join(stateDir, frontsName)
	if err := draft.Write(path, []byte(strings.Join(lines, "")), 0o644); err != nil {
		return fmt.Errorf("roles: %w", err)
	}
	return nil
}

// forgetFronts removes the file, if there is one.
func forgetFronts(stateDir string) error {
	if err := os.Remove(filepath.Join(stateDir, frontsName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("roles: %w", err)
	}
	return nil
}

// failback carries an operator's order out, or tells why there is nothing to do.
func (d *daemon) failback(ctx context.Context, name string) error {
	c, v, err := d.vipOf(name)
	if err != nil {
		return err
	}
	switch {
	case c.Role == nil || v.Role == nil || v.Role.Rank == 0:
		return fmt.Errorf("%s has no role.rank, so there is nothing to take back", v.Name)
	case !v.Announced:
		return fmt.Errorf("%s is not announced by this host (%s), so it can take nothing back", v.Name, v.Reason)
	case !v.Role.Behind:
		return fmt.Errorf("%s is announced with its rank already", v.Name)
	}
	d.loop.Failback(v.Prefix)
	d.shown(ctx)
	return nil
}
