// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"os"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// TestKstatus asks the library by which Helm and its kin wait what it makes of a
// run in each phase. A test of the controller keeps the runs as it writes them.
func TestKstatus(t *testing.T) {
	raw, err := os.ReadFile("testdata/kstatus.json")
	if err != nil {
		t.Fatal(err)
	}
	var runs map[string]any
	if err := json.Unmarshal(raw, &runs); err != nil {
		t.Fatal(err)
	}
	want := map[string]kstatus.Status{
		"new": kstatus.InProgressStatus, "queued": kstatus.InProgressStatus, "streaming": kstatus.InProgressStatus,
		"retrying": kstatus.InProgressStatus, "succeeded, edited since": kstatus.InProgressStatus,
		"suspended": kstatus.CurrentStatus, "succeeded": kstatus.CurrentStatus, "cancelled": kstatus.CurrentStatus,
		"failed": kstatus.FailedStatus, "being deleted": kstatus.TerminatingStatus,
	}
	if len(runs) != len(want) {
		t.Errorf("%d runs, want %d", len(runs), len(want))
	}
	for name, is := range want {
		run, _ := runs[name].(map[string]any)
		got, err := kstatus.Compute(&unstructured.Unstructured{Object: run})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Status != is {
			t.Errorf("%s: %s (%s), want %s", name, got.Status, got.Message, is)
		}
	}
}
