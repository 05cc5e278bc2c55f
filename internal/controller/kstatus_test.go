// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"

	"chatrun.dev/operator/api/v1alpha1"
)

// kstatusRuns is where test/oracle finds a run in each phase, to be read by the
// library that Helm and its kin wait with. UPDATE_KSTATUS=1 writes it anew.
const kstatusRuns = "../../test/oracle/testdata/kstatus.json"

func TestKstatusRuns(t *testing.T) {
	unseen := func(r *v1alpha1.ChatRun) { r.Status.ObservedGeneration = new(int64(0)) } // the schema's default
	edited := func(r *v1alpha1.ChatRun) { r.Generation = 2 }
	runs := map[string]*v1alpha1.ChatRun{
		"new": newRun(unseen), "queued": newRun(held("Queued")), "streaming": newRun(streaming(1)),
		"retrying": newRun(waiting(1, time.Minute)), "suspended": newRun(suspendedAt(t0)),
		"succeeded": newRun(ended(succeed, "")), "succeeded, edited since": newRun(ended(succeed, ""), edited),
		"cancelled": newRun(ended(cancel, "")), "failed": newRun(ended(fail, "InvalidRequest")),
		"being deleted": newRun(streaming(1), deleting),
	}
	got, err := json.MarshalIndent(runs, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if os.Getenv("UPDATE_KSTATUS") != "" {
		if err := os.WriteFile(kstatusRuns, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(kstatusRuns)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what we write: run this test with UPDATE_KSTATUS=1, and test/oracle", kstatusRuns)
	}
}
