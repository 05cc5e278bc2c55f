// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the kinds of the API group chatrun.dev: ChatProvider,
// which says who answers, and ChatRun, which says what is asked.
// +kubebuilder:object:generate=true
// +groupName=chatrun.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of the kinds in this package.
var GroupVersion = schema.GroupVersion{Group: "chatrun.dev", Version: "v1alpha1"}

// AddToScheme adds the kinds of this package to a scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&ChatProvider{}, &ChatProviderList{},
		&ChatRun{}, &ChatRunList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
