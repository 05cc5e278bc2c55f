// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	testclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

// TestProviderReconcile: what becomes of Ready, and of the Secret's value, as
// the Secret comes and goes. The wait for a missing one survives a restart.
func TestProviderReconcile(t *testing.T) {
	const value = "sk-never-to-be-seen"
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	secret := func(data map[string][]byte) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "key"}, Data: data}
	}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "key", nil)
	for _, tc := range []struct {
		name     string
		caBundle string
		secret   *corev1.Secret
		fault    error
		reason   string
		after    time.Duration
		err      bool
	}{
		{"there", "", secret(map[string][]byte{"k": []byte(value)}), nil, v1alpha1.ReasonAccepted, 0, false},
		{"missing", "", nil, nil, v1alpha1.ReasonSecretNotFound, minSecretDelay, false},
		{"forbidden", "", nil, forbidden, v1alpha1.ReasonSecretNotFound, minSecretDelay, false},
		{"unreadable just now", "", nil, broken, v1alpha1.ReasonAccepted, 0, true},
		{"another key", "", secret(map[string][]byte{"K": []byte(value)}), nil, v1alpha1.ReasonKeyNotFound, minSecretDelay, false},
		{"empty", "", secret(map[string][]byte{"k": {}}), nil, v1alpha1.ReasonKeyNotFound, minSecretDelay, false},
		{"bad bundle", "x", secret(map[string][]byte{"k": []byte(value)}), nil, v1alpha1.ReasonInvalid, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := ready()
			p.Spec.Credentials = &v1alpha1.Credentials{SecretKeyRef: v1alpha1.SecretKeyReference{Name: "key", Key: "k"}}
			p.Spec.CABundle = tc.caBundle
			objects := []client.Object{p}
			if tc.secret != nil {
				objects = append(objects, tc.secret)
			}
			writes := 0
			api := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(p).
				WithInterceptorFuncs(interceptor.Funcs{
					Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
						if _, ok := o.(*corev1.Secret); ok && tc.fault != nil {
							return tc.fault
						}
						return c.Get(ctx, key, o, opts...)
					},
					SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
						writes++
						return c.SubResource(sub).Patch(ctx, o, patch, opts...)
					},
				}).Build()
			r := &ChatProviderReconciler{client: api, live: api, clock: testclock.NewFakePassiveClock(t0.Add(time.Hour)), members: members.Alone("me"), asked: &asked{}, metrics: newBench(t).r.metrics}
			for range 3 {
				result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)})
				if (err != nil) != tc.err || result.RequeueAfter != tc.after {
					t.Errorf("looks again after %v, error %v", result.RequeueAfter, err)
				}
			}
			if err := api.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
				t.Fatal(err)
			}
			if c := providerReady(p); c.Reason != tc.reason || strings.Contains(fmt.Sprint(p.Status), value) {
				t.Errorf("%+v", p.Status)
			}
			if writes > 1 {
				t.Errorf("%d writes for one change", writes)
			}
		})
	}
}
