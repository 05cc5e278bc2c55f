// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/events"

	"chatrun.dev/operator/api/v1alpha1"
)

// TestEvents: a retry, an end that is no success, and a wait that somebody has to
// end are told as Events; a success and a turn in the queue are not.
func TestEvents(t *testing.T) {
	for _, tc := range []struct {
		d    decision
		want string // the beginning of the Event; empty for none
	}{
		{decision{verb: start, attempt: 1}, ""},
		{decision{verb: succeed, outcome: good(1)}, ""},
		{decision{verb: retry, delay: time.Second, failure: overloaded}, "Warning Retrying"},
		{decision{verb: fail, reason: v1alpha1.ReasonAuthenticationFailed, failure: wrongKey}, "Warning AuthenticationFailed"},
		{decision{verb: cancel}, "Normal Cancelled"},
		{decision{verb: suspend}, "Normal Suspended"},
		{decision{verb: handOver}, "Normal Pending"},
		{decision{verb: hold, reason: v1alpha1.ReasonProviderNotReady}, "Warning ProviderNotReady"},
		{decision{verb: hold, reason: v1alpha1.ReasonMessagesNotFound}, "Warning MessagesNotFound"},
		{decision{verb: hold, reason: v1alpha1.ReasonMessagesNotKept}, "Warning MessagesNotKept"},
		{decision{verb: hold, reason: v1alpha1.ReasonQueued}, ""},
		{decision{verb: hold, reason: v1alpha1.ReasonWaitingForParent}, ""},
		{decision{verb: hold, reason: v1alpha1.ReasonRetrying}, ""},
	} {
		recorder := events.NewFakeRecorder(1)
		run := newRun()
		if tc.d.verb != hold {
			streaming(1)(run)
		}
		run.Status = nextStatus(run, tc.d, actor{worker: "me"}, t0)
		(&ChatRunReconciler{recorder: recorder}).tell(run, tc.d)
		select {
		case got := <-recorder.Events:
			if tc.want == "" || !strings.HasPrefix(got, tc.want) {
				t.Errorf("%s %s: %q, want %q", tc.d.verb, tc.d.reason, got, tc.want)
			}
		default:
			if tc.want != "" {
				t.Errorf("%s %s: no Event, want %q", tc.d.verb, tc.d.reason, tc.want)
			}
		}
	}
}
