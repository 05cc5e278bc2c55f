// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

const (
	testNamespace = "chatrun-system"
	testDuration  = 15 * time.Second
)

// lonely are members that follow nothing: what they know comes from reads.
func lonely(t *testing.T, leases ...*coordinationv1.Lease) (*Members, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset()
	for _, l := range leases {
		if err := client.Tracker().Add(l); err != nil {
			t.Fatal(err)
		}
	}
	m, err := New(Options{Client: client, Namespace: testNamespace, Name: "us", Duration: testDuration, Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	return m, client
}

func leaseOf(name string) *coordinationv1.Lease {
	seconds := int32(testDuration / time.Second)
	holder := name + "_process"
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: name},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &metav1.MicroTime{Time: time.Now()},
		},
	}
}

func askGone(t *testing.T, m *Members, name string, want bool) {
	t.Helper()
	got, err := m.Gone(t.Context(), name)
	if err != nil || got != want {
		t.Errorf("gone: %v, %v, want %v", got, err, want)
	}
}

// TestGoneAsksPastTheWatch: a replica whose Lease our watch did not tell of yet is
// not gone, and one that renews nothing is, a whole duration later and not before.
func TestGoneAsksPastTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := lonely(t, leaseOf("other"))
		if got := m.State("other"); got != Gone {
			t.Fatalf("state %d before anything was read", got)
		}
		askGone(t, m, "other", false)
		if got := m.State("other"); got != Live {
			t.Errorf("state %d, want Live", got)
		}
		<-time.After(testDuration - 1)
		askGone(t, m, "other", false)
		<-time.After(1)
		askGone(t, m, "other", true)
	})
}

// TestDeletedLeaseIsPutBack: nobody is gone because somebody deleted its Lease,
// however often: it has to lapse.
func TestDeletedLeaseIsPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, client := lonely(t)
		leases := client.CoordinationV1().Leases(testNamespace)
		for range 3 {
			askGone(t, m, "other", false)
			if got := m.State("other"); got != Draining {
				t.Errorf("state %d, want Draining: it takes on nothing", got)
			}
			<-time.After(testDuration - 1)
			if err := leases.Delete(t.Context(), "other", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		askGone(t, m, "other", false)
		<-time.After(testDuration)
		askGone(t, m, "other", true)
	})
}

// TestNobodyIsCalledSo: what is no name of a Lease is no replica's.
func TestNobodyIsCalledSo(t *testing.T) {
	m, _ := lonely(t)
	askGone(t, m, "No/Lease", true)
	if gone, err := Alone("us").Gone(t.Context(), "other"); err != nil || !gone {
		t.Errorf("alone: %v, %v", gone, err)
	}
}
